"""The configuration of a run: what may stand in CONFIG.toml, and its defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from gradsift.selection.selectors import Selector, make_selector
from gradsift.specs import Gamma, ProjectionSpec

Seed = Annotated[int, Field(ge=0, lt=2**32)]
BadRows = Literal["error", "skip"]
BASELINES = ("base", "random")  # what results are called that come of no selection


def _check_source(source: str) -> str:
    if not source or (source.startswith("hf:") and (source.count(":") != 2 or not all(source.split(":")))):
        raise ValueError(f"expected a path, a glob or hf:NAME:SPLIT, got {source!r}")
    return source


Source = Annotated[str, AfterValidator(_check_source)]
Sources = Annotated[list[Source], Field(min_length=1)]


class Section(BaseModel):
    """A table of the file: no other keys, and no conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelConfig(Section):
    """Base model."""

    path: str = Field(description='transformers folder, hub name, or "smollm2-135m-instruct" (brought by pip, no hub)')
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the machine multiplies it natively, else float32"
    )
    max_length: int = Field(2048, ge=8, description="tokens a sample is cut to, from the right")
    template: str | None = Field(
        None, description='"gradsift-default/1" or a Jinja chat template, instead of the tokenizer\'s own'
    )


class PoolConfig(Section):
    """Candidates."""

    sources: Sources = Field(description="files, directories, globs (relative to the configuration) or hf:NAME:SPLIT")
    ids: str | None = Field(None, description="text file of ids, one a line: only these, in this order")
    limit: int | None = Field(None, ge=1, description="keep the first so many")
    id_field: str = Field("id", description="column that names a sample; made from its content where absent")
    bad_rows: Literal["error", "skip"] = Field(
        "error", description="stop at bad rows, or leave them out and count them"
    )


class TargetConfig(Section):
    """One skill to select for."""

    sources: Sources = Field(description="the few examples to select by")
    test: list[Source] = Field(default_factory=list, description="test set, for `evaluate`; may stay empty")
    subtask_field: str | None = Field(None, description="column that splits the target into subtasks")
    subtask_from_file: bool = Field(False, description="each source file is a subtask of its own")
    id_field: str = Field("id", description="as in [pool]")
    bad_rows: BadRows = Field("error", description="as in [pool]")

    @model_validator(mode="after")
    def _one_origin_of_subtasks(self) -> TargetConfig:
        if self.subtask_field is not None and self.subtask_from_file:
            raise ValueError("expected subtask_field or subtask_from_file, got both")
        return self


class LoraConfig(Section):
    """Adapter that is trained at warm-up and on the selection; gradients are taken of it."""

    r: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    modules: Annotated[list[str], Field(min_length=1)] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"],
        description="names of the layers that carry an adapter",
    )


class TrainingConfig(Section):
    """AdamW with a linear decay, through the transformers Trainer."""

    epochs: int = Field(4, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    batch_size: int = Field(8, ge=1, description="samples a step")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(0.0, ge=0)


class WarmupConfig(TrainingConfig):
    """LoRA on a random part of the pool; every epoch leaves a checkpoint."""

    fraction: float = Field(0.05, gt=0, le=1, description="share of the pool")


class CollectConfig(Section):
    """Sketches of the pool and the targets at every checkpoint."""

    proj_dim: int = Field(8192, description="numbers a sketch: a power of two, 256 to 65536")
    seed: int = Field(0, description="of the projection")
    kind: Literal["xor", "rademacher"] = "xor"
    nonzeros: int = Field(1, description="1, 2, 4 or 8; take 4 for very sparse raw gradients")
    gamma: Literal["adam", "less", "affine", "second_moment", "sgd", "sign"] = Field(
        "adam", description="map from gradient to update direction, for candidates; targets always take sgd"
    )
    dtype: Literal["bfloat16", "float16", "float32", "int8", "int4", "int1"] = Field(
        "bfloat16", description="of the stored rows; with int8, int4 or int1 the few rows of targets are float32"
    )
    max_tokens: int | Literal["auto"] = Field(
        "auto", description="tokens a batch, padding included; auto: as many as help and fit, kept for a resumed run"
    )
    memory_limit_gib: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="what a batch may take beyond the model, for auto; half of the free memory if absent",
    )
    keep: Literal["rows", "scores"] = Field(
        "rows",
        description="scores: rows of the pool are scored as they are collected and not kept; takes no deduplicate, "
        "no knn_kde, no explain, and another reduce or target is collected anew",
    )
    shard_rows: int = Field(256, ge=1, description="rows a shard: what an interrupted run loses at most")

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _tokens_are_counted(cls, value: Any) -> Any:
        if value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError(f'expected "auto" or an integer of at least 1, got {value!r}')

    @model_validator(mode="after")
    def _projection_is_valid(self) -> CollectConfig:
        self.projection()
        return self

    @property
    def target_dtype(self) -> str:
        """Scores keep more of their order where only one side is quantised, and targets are few."""
        return "float32" if self.dtype.startswith("int") else self.dtype

    def projection(self) -> ProjectionSpec:
        return ProjectionSpec(self.proj_dim, self.seed, self.kind, self.nonzeros)


class SelectConfig(Section):
    """Influence and the choice made by it."""

    fraction: float | None = Field(
        None, gt=0, le=1, description="share of the pool to select; 0.05 if count is absent, too"
    )
    count: int | None = Field(None, ge=1, description="how many to select, instead of fraction")
    budget: Literal["samples", "tokens"] = Field("samples", description="what fraction and count count")
    selector: Literal[
        "top", "round_robin", "threshold", "band", "quota", "vote", "knn_kde", "random", "length", "rds", "bm25"
    ] = Field("top", description="see docs/selectors.md; rds and bm25 take no gradients, and nothing is collected")
    options: dict[str, Any] = Field(default_factory=dict, description="of the selector, such as { top = 0.2 } of vote")
    deduplicate: float | None = Field(
        None, gt=0, le=1, description="pass over samples whose sketches have this cosine to one taken before"
    )
    reduce: Literal["less", "mean", "max", "cosine_to_mean"] = Field(
        "less", description="how scores for many target examples become one influence"
    )
    target_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="what targets are rounded to; bfloat16 makes the scan faster where collect.dtype is that, and auto "
        "does so for samples that cannot be selected anyway",
    )
    seed: int = Field(0, ge=0, lt=2**64, description="of the selectors random and knn_kde")
    scan_dtype: Literal["int8", "int4", "int1"] | None = Field(
        None,
        description="scan a copy of the pool's rows in this dtype, made once, and score the best again from the rows",
    )
    per_target: bool = Field(False, description="one selection for each target instead of one for all together")
    key_prefix: str = Field("", description="put before influence, rank, best_target in selected.jsonl")

    @model_validator(mode="after")
    def _choice_is_possible(self) -> SelectConfig:
        if self.fraction is not None and self.count is not None:
            raise ValueError("expected fraction or count, got both")
        if self.by == "text" and (self.reduce == "cosine_to_mean" or self.deduplicate is not None):
            raise ValueError('expected neither deduplicate nor reduce "cosine_to_mean" with selector "bm25"')
        if self.by == "text" and self.target_dtype == "bfloat16":
            raise ValueError('expected target_dtype "auto" with selector "bm25", which compares no sketches')
        try:
            self._selector().check(self.reduce)
        except TypeError as error:  # which pydantic would not explain
            raise ValueError(str(error)) from None
        if self.scan_dtype is not None and (self.selector != "top" or self.budget != "samples"):
            raise ValueError('expected selector "top" and a budget in samples with scan_dtype, got others')
        return self

    def _selector(self) -> Selector:
        return make_selector("top" if self.selector == "bm25" else self.selector, self.options)

    @property
    def by(self) -> Literal["gradients", "embeddings", "text"]:
        """What samples are compared by."""
        if self.selector == "rds":
            return "embeddings"
        return "text" if self.selector == "bm25" else "gradients"

    @property
    def needs_rows(self) -> bool:
        """Whether rows of the pool are read again after they were scored."""
        if self.deduplicate is not None or self.scan_dtype is not None:
            return True
        return self._selector().needs_rows

    def arguments(self) -> dict[str, Any]:
        """What `gradsift.select` is given of this section."""
        amount: dict[str, Any] = {"fraction": self.fraction, "count": self.count}
        if self.fraction is None and self.count is None and self._selector().needs_budget:
            amount["fraction"] = 0.05
        return amount | {
            "budget": self.budget,
            "selector": self._selector().name,
            "options": self.options,
            "deduplicate": self.deduplicate,
            "reduce": self.reduce,
            "target_dtype": self.target_dtype,
            "seed": self.seed,
        }


class TrainConfig(TrainingConfig):
    """LoRA from the base model on the selection, and on random choices of the same size."""

    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        default_factory=lambda: [0, 1, 2], description="one training each, of the selection and of a random choice"
    )
    random: bool = Field(True, description="train on random choices too, for comparison")


class EvaluateConfig(Section):
    """Answer-token loss and exact match on the targets' test sets."""

    exact_match: bool = Field(True, description="also generate answers and compare them")
    max_new_tokens: int = Field(64, ge=1)
    limit: int | None = Field(None, ge=1, description="test examples a target; all if absent")


class RunConfig(Section):
    """A whole CONFIG.toml."""

    run_dir: str = Field(description="where everything is written; relative to the configuration")
    seed: Seed = Field(0, description="of the warm-up's choice and of training")
    model: ModelConfig
    pool: PoolConfig
    targets: Annotated[dict[str, TargetConfig], Field(min_length=1)]
    lora: LoraConfig = LoraConfig()
    warmup: WarmupConfig = WarmupConfig()
    collect: CollectConfig = CollectConfig()
    select: SelectConfig = SelectConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _rows_are_kept_where_they_are_read(self) -> RunConfig:
        if self.scores_alone and self.select.needs_rows:
            raise ValueError(
                'collect.keep: expected "rows" with select.deduplicate, select.scan_dtype or selector "knn_kde", which '
                'read rows again, got "scores"'
            )
        if self.scores_alone and self.select.target_dtype == "bfloat16":
            raise ValueError(
                'select.target_dtype: expected "auto" or "float32" with collect.keep = "scores", got "bfloat16"'
            )
        return self

    @model_validator(mode="after")
    def _scanned_rows_are_coarser(self) -> RunConfig:
        scanned, kept = self.select.scan_dtype, self.collect.dtype
        if scanned is not None and kept.startswith("int") and int(kept[3:]) <= int(scanned[3:]):
            raise ValueError(f"select.scan_dtype: expected fewer bits than collect.dtype, {kept}, got {scanned}")
        return self

    @property
    def scores_alone(self) -> bool:
        """Whether the pool's scores are kept, and not its rows."""
        return self.collect.keep == "scores" and self.select.by == "gradients"

    def selections(self) -> dict[str, list[str]]:
        """The selections of this run, by name, each with the targets it is for."""
        return {name: [name] for name in self.targets} if self.select.per_target else {"selected": list(self.targets)}

    @field_validator("targets")
    @classmethod
    def _target_names_are_file_names(cls, targets: dict[str, TargetConfig]) -> dict[str, TargetConfig]:
        for name in targets:
            if not name or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                raise ValueError(f"target names: expected letters, digits, - and _, got {name!r}")
            if name in (*BASELINES, "selected"):
                raise ValueError(f"target names: expected another than {name!r}, which names other results")
        return targets


def gamma_of(kind: str, betas: tuple[float, float], eps: float, step: int) -> Gamma:
    """The Γ called `kind`, with the numbers of the optimizer that made the checkpoint."""
    beta1, beta2 = betas
    if kind == "adam":
        return Gamma.adam(beta1, beta2, eps, step)
    if kind == "affine":
        return Gamma.affine(beta1, beta2, eps, step)
    if kind == "second_moment":
        return Gamma.second_moment(beta2, eps, step)
    return Gamma(kind) if kind in ("sgd", "sign") else Gamma.less()
