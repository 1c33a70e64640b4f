"""What `gradsift demo` works on: data it makes up and a small language model it fetches."""

from gradsift.demo.model import ensure_smollm2
from gradsift.demo.skills import SKILLS, generate, write_demo_data

__all__ = ["SKILLS", "ensure_smollm2", "generate", "write_demo_data"]
