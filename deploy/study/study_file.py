"""The study file: presets × variants × seeds, or a search, in TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from common.config_errors import Spelling, first_mistake, in_toml, toml_key
from common.config_sections import Section
from common.config_toml import known_keys, load_toml
from common.errors import UserError
from deploy.study.space import Choice, Distribution, parse_space

AUTO = "auto"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
"""Of a study, and of a variant: both name folders."""
_NAME_RULE = "must begin with a letter or digit, and hold letters, digits and _ . + - only"


class SearchConfig(Section):
    """A search space, instead of variants."""

    searcher: Literal["random", "grid", "optuna"] = Field(
        "random", description="how samples are chosen; grid: every combination of its choices"
    )
    samples: int | None = Field(None, ge=1, description="number of samples; grid has its own")
    metric: Literal["score", "best_score"] = Field("score", description="what is to be large")
    seed: int = Field(0, ge=0, lt=2**32, description="of the samples")
    scheduler: Literal["none", "asha", "median"] = Field(
        "none", description="which trials are stopped early"
    )
    grace_env_steps: int | None = Field(
        None, ge=1, description="env steps that each trial gets; none: a tenth of stop.env_steps"
    )
    reduction: float = Field(
        3.0, gt=1, description="asha: one of so many trials goes on at each step"
    )
    space: dict[str, Any] = Field(
        default_factory=dict, description="by key: a distribution in Ray Tune's words"
    )

    @model_validator(mode="after")
    def _samples_fit(self) -> SearchConfig:
        if not self.space:
            raise ValueError("space={}: must name at least one key")
        if (self.searcher == "grid") != (self.samples is None):
            must = (
                "must not be set with searcher=grid: its choices count them"
                if self.searcher == "grid"
                else "must be a whole number of at least 1"
            )
            raise ValueError(f"samples={'none' if self.samples is None else self.samples}: {must}")
        if self.grace_env_steps is not None and self.scheduler == "none":
            raise ValueError(
                f"grace_env_steps={self.grace_env_steps}: has no effect with scheduler=none"
            )
        return self


class RunPlace(Section):
    """The place where each trial runs."""

    inline: bool = Field(True, description="in one process, without Ray, on cores of its own")
    address: str | None = Field(
        None, min_length=1, description="of a Ray cluster that runs the trials, such as auto"
    )

    @model_validator(mode="after")
    def _one_place(self) -> RunPlace:
        if self.inline and self.address is not None:
            raise ValueError(f"address={self.address}: needs inline=false")
        return self


class StudyFile(Section):
    """A study."""

    name: str | None = Field(None, description="none: that of the file")
    preset: str | None = Field(None, description="one preset, instead of presets")
    presets: tuple[str, ...] = Field((), description="each × variant × seed is a trial")
    seeds: tuple[int, ...] = Field((1,), description="of the runs")
    parallel: Literal["auto"] | int = Field(
        "auto",
        description="trials at a time; auto: as many as cores and memory hold; 1 if not run.inline",
    )
    cores: int = Field(1, ge=1, description="CPU cores of each trial")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="for all trials, as in a run's TOML"
    )
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="named overrides: each × preset × seed is a trial"
    )
    search: SearchConfig | None = Field(None, description="a search, instead of variants")
    run: RunPlace = RunPlace()

    @field_validator("presets", "seeds", mode="before")
    @classmethod
    def _lists_hold_one_kind(cls, value: Any, info: ValidationInfo) -> Any:
        is_seeds = info.field_name == "seeds"
        kind, words = (int, "whole numbers") if is_seeds else (str, "names of presets")
        if not isinstance(value, list | tuple) or not all(type(one) is kind for one in value):
            raise ValueError(f"must be a list of {words}")
        return value

    @field_validator("parallel", mode="before")
    @classmethod
    def _parallel_is_a_number(cls, value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value != AUTO and not is_count:
            raise ValueError("must be a whole number of at least 1, or auto")
        return value

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str | None) -> str | None:
        if value is not None and not _NAME.fullmatch(value):
            raise ValueError(_NAME_RULE)
        return value

    @model_validator(mode="after")
    def _variants_are_folders(self) -> StudyFile:
        for name in self.variants:
            if not _NAME.fullmatch(name):
                raise ValueError(f"variants.{toml_key(name)}: the name {_NAME_RULE}")
        return self

    @model_validator(mode="after")
    def _trials_differ(self) -> StudyFile:
        if (self.preset is None) == (not self.presets):
            raise ValueError("must name either preset or presets")
        for key in ("presets", "seeds"):
            values = getattr(self, key)
            if key == "seeds" and not values:
                raise ValueError("seeds=[]: must hold at least one seed")
            if len(set(values)) < len(values):
                raise ValueError(f"{key}={in_toml(values)}: must not hold a value twice")
        variants = ((f"variants.{toml_key(name)}", one) for name, one in self.variants.items())
        for where, values in (("overrides", self.overrides), *variants):
            if "seed" in values:
                raise ValueError(f"{where}: must not set seed; the key seeds of the study does")
        if self.search is not None:
            self._check_search(self.search)
        return self

    def _check_search(self, search: SearchConfig) -> None:
        if self.variants:
            raise ValueError("has both variants and search; must have one of them")
        alone = [
            reason
            for used, reason in (
                (search.searcher == "optuna", "searcher=optuna"),
                (search.scheduler != "none", f"scheduler={search.scheduler}"),
            )
            if used
        ]
        if alone and len(self.all_presets) > 1:
            raise ValueError(f"search.{alone[0]} compares scores, so there must be one preset")
        if search.searcher == "optuna" and len(self.seeds) > 1:
            raise ValueError("search.searcher=optuna needs one seed; run the best again with more")

    @property
    def all_presets(self) -> tuple[str, ...]:
        """The presets, however they were named."""
        return self.presets if self.preset is None else (self.preset,)

    @property
    def metric(self) -> str:
        """By what trials are compared."""
        return self.search.metric if self.search is not None else "score"


KEYS = known_keys(StudyFile) | {
    f"search.{name}": info for name, info in SearchConfig.model_fields.items()
}
"""Every key of a study file, as `name` or `section.name`."""
KEYS.pop("search")


def load_study_file(path: Path) -> tuple[StudyFile, dict[str, Distribution]]:
    """A study file, and the distributions of its search by key; empty without one.

    Raises:
        UserError: one line with the file, the key and the accepted values.
    """
    values = load_toml(path)
    try:
        file = StudyFile.model_validate(values)
    except ValidationError as error:
        raise UserError(first_mistake(error, values, KEYS).message(Spelling(str(path)))) from None
    if file.name is None and not _NAME.fullmatch(path.stem):
        raise UserError(f"{path}: name={path.stem}: {_NAME_RULE}")
    if file.search is None:
        return file, {}
    try:
        space = parse_space(file.search.space)
    except ValueError as error:
        raise UserError(f"{path}: search.space: {error}") from None
    if file.search.searcher == "grid":
        for key, domain in space.items():
            if not isinstance(domain, Choice):
                raise UserError(
                    f"{path}: search.space: {key}={domain}: must be a choice with searcher=grid"
                )
    return file, space


def study_name(file: StudyFile, path: Path) -> str:
    """The name of a study: of its folder, and of reports about it."""
    return path.stem if file.name is None else file.name


def flat(values: Mapping[str, Any], keys: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values nested by section, by key: `{"learner": {"gamma": 1}}` → `{"learner.gamma": 1}`.

    Args:
        values: nested by section.
        keys: of the configuration: their values are left whole, tables as well.
        prefix: of all keys.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, Mapping) and key not in keys and not prefix:
            found |= flat(value, keys, f"{key}.")
        else:
            found[key] = value
    return found
