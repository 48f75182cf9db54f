"""The comparison: the same measures of many systems, each in a process of its own.

``worker`` is the process that holds one index; ``processes`` starts and asks it; ``limits`` takes memory
and the page cache away; ``runner`` says what is asked of whom and when; ``measures`` makes figures of
answers; ``charts`` and ``report`` show them.
"""
