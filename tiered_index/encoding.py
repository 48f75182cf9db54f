"""Which encoder an index's vectors are from, as the index keeps it."""

from __future__ import annotations

import msgspec

from tiered_index.errors import ConfigMismatchError, EncoderMismatchError


class EncoderIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tells one encoder from another.

    Parameters
    ----------
    kind : str
        "sentence-transformers", "openai", "callable", or a word for your own.
    name : str
        Name or path of the model, or of the function.
    dim : int
        Length of its vectors.
    prompts : dict of str to str
        What it puts before a "query" and before a "document", where it does.
    normalized : bool
        Whether it scales its vectors to unit length.
    by_name : bool
        Whether the name is enough to load it again; makes no difference between encoders.
    """

    kind: str
    name: str
    dim: int
    prompts: dict[str, str] = {}
    normalized: bool = False
    by_name: bool = False

    def __str__(self) -> str:
        said = [self.kind, f"{self.dim} dimensions"]
        said += [f"{role} prompt {prompt!r}" for role, prompt in sorted(self.prompts.items())]
        if self.normalized:
            said.append("normalized")
        return f"{self.name!r} ({', '.join(said)})"

    def same_as(self, other: EncoderIdentity) -> bool:
        """Return whether both give the same vectors, by what they say of themselves."""
        return msgspec.structs.replace(self, by_name=other.by_name) == other


class TextConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How texts come into an index; fixed with the first ones.

    Parameters
    ----------
    encoder : EncoderIdentity
        Whose vectors the rows hold.
    column : str or None
        The metadata column that keeps the texts; None if they are not kept.
    """

    encoder: EncoderIdentity
    column: str | None

    def check_same(self, other: TextConfig) -> None:
        """Raise unless `other` is what this index has.

        Raises
        ------
        EncoderMismatchError
            Another encoder; both are named.
        ConfigMismatchError
            Another column.
        """
        if not self.encoder.same_as(other.encoder):
            hint = ""
            if self.encoder.same_as(msgspec.structs.replace(other.encoder, name=self.encoder.name)):
                hint = f"; if they are the same, give the encoder name={self.encoder.name!r}"
            raise EncoderMismatchError(
                f"the index's vectors are from {self.encoder}, not from {other.encoder}{hint}"
            )
        if self.column != other.column:
            raise ConfigMismatchError(f"the index keeps texts in {self.column!r}, not in {other.column!r}")
