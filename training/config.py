"""What all settings have in common: every key is known, and values do not change."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Settings that belong together: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
