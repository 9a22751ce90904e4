"""What the settings in schema.py are made of: kinds of numbers, texts and paths, and the section."""
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Sigma = Annotated[float, Field(ge=0.1, le=512)]
Side = Annotated[int, Field(ge=32, le=16384)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
KernelSlug = Annotated[str, Field(pattern=r"^\w[\w-]*/[a-z0-9][a-z0-9-]*$")]
Background = Literal["catalog", "folder", "mixed", "none"]  # what cut-outs are put on
UserName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound comes first")
    return bounds


def Range(low: float, high: float):
    """The type of a [low, high] list within the given limits."""
    number = Annotated[float, Field(ge=low, le=high)]
    return Annotated[tuple[number, number], AfterValidator(_ordered)]


def _from_home(value: object) -> object:
    """Expands ~ and ~user to home folders, as a shell does."""
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("an empty path; use . for the current folder")
    try:
        path = Path(value).expanduser() if value.startswith("~") else Path(value)
    except RuntimeError:
        raise ValueError(f"no such user; for a folder of that name write ./{value}") from None
    return path.absolute() if path.parts[:1] and path.parts[0].startswith("~") else path  # ./~x must not become ~x


Location = Annotated[Path, BeforeValidator(_from_home)]  # path of a file or a folder


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value, info: ValidationInfo):
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("true/false is not allowed here")
        if isinstance(value, str) and "\0" in value:  # a path cannot hold one
            raise ValueError("a NUL character is not allowed here")
        return value


def named_by(page: str) -> BeforeValidator:
    """Reduces the pasted URL of a Kaggle page to the name in it: the group in `page`, which follows the host."""
    address = re.compile(rf"\s*(?:https?://)?(?:www\.)?kaggle\.com/{page}(?:[/?#\s]|$)", re.IGNORECASE)

    def name(value):
        found = address.match(value) if isinstance(value, str) else None
        return found[1] if found else value

    return BeforeValidator(name)
