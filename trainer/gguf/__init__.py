"""Models as GGUF files that llama.cpp loads: the exchange format of a runtime that shares nothing with ours."""

from trainer.gguf.model import WeightType, Written, save_gguf

__all__ = ["WeightType", "Written", "save_gguf"]
