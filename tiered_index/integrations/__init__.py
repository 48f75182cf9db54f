"""Where the index meets other libraries: one module each, which imports it and says what to install."""
