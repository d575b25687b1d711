"""What can be set for llama.cpp, for all models and for single ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Pooling = Literal["", "mean", "cls", "last"]


class ModelSettings(BaseModel):
    """What can differ from model to model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_tokens: int = Field(
        default=0,
        ge=0,
        title="Context",
        description="Tokens that one request may use. 0: trained, at most 8192.",
    )
    pool_tokens: int = Field(
        default=0,
        ge=0,
        title="Shared context",
        description="Tokens for all requests together. 0: by free memory.",
    )
    slots: int = Field(
        default=4,
        ge=1,
        le=64,
        title="Slots",
        description="Requests that one model works on at the same time.",
    )
    cache_type_k: CacheType = Field(
        default="f16",
        title="Type of cached keys",
        description="Smaller types take less memory for the context.",
    )
    cache_type_v: CacheType = Field(
        default="f16",
        title="Type of cached values",
        description="Smaller types take less memory for the context.",
    )
    gpu_layers: int = Field(
        default=-1, ge=-1, title="Layers on the GPU", description="-1: as many as fit; 0: none."
    )
    embeddings: Pooling = Field(
        default="",
        title="Embeddings",
        description="How a chat model's vectors are pooled; empty: it makes none.",
    )
    chat_template: Path | None = Field(
        default=None, title="Chat template", description="A Jinja file instead of the model's own template."
    )
    lora: list[Path] = Field(
        default=[], title="LoRA adapters", description="GGUF files applied to the model."
    )


class LlamaCppSettings(ModelSettings):
    """Settings of the engine, and the defaults of all models."""

    binary: Path | None = Field(
        default=None,
        title="Program",
        description="A llama-server of your own (CUDA, ROCm, Vulkan, Metal) in place of the built-in engine.",
    )
    folders: list[Path] = Field(
        default=[], title="Model folders", description="More folders to look for GGUF files in."
    )
    files: list[Path] = Field(default=[], title="Model files", description="Single GGUF files to offer.")
    threads: int = Field(default=0, ge=0, title="Threads", description="0: one for each physical core.")
    batch_tokens: int = Field(
        default=512,
        ge=32,
        le=8192,
        title="Batch",
        description="Prompt tokens read at a time. Cancelling and progress happen between batches.",
    )
    cache_ram_mib: int = Field(
        default=256,
        ge=0,
        title="Prompt cache",
        description="MiB of memory for prompts of earlier chats, per model.",
    )
    load_timeout_s: float = Field(
        default=600, gt=0, title="Longest load", description="Seconds a load may take."
    )
    hang_timeout_s: float = Field(
        default=60,
        gt=0,
        title="Longest silence",
        description="Seconds without any sign of progress, on top of what one batch may take, before a worker counts "
        "as hung.",
    )
    models: dict[str, ModelSettings] = Field(
        default={},
        title="Single models",
        description="Settings by model id; what is not set there holds from above.",
    )

    def for_model(self, model: str) -> ModelSettings:
        """The settings of one model."""
        own = self.models.get(model)
        common = {name: getattr(self, name) for name in ModelSettings.model_fields}
        return ModelSettings(**common | (own.model_dump(exclude_unset=True) if own else {}))
