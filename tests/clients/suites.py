"""Which client runs where: the environments, their checks, and their examples of the guides."""

import textwrap
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    environment: str
    """Name of the virtual environment, and of its file in requirements/."""
    checks: tuple[str, ...] = ()
    """Files of this folder for pytest."""
    examples: tuple[str, ...] = ()
    """Files under examples/guides."""
    borrows_torch: bool = False
    """Whether packages that its requirements do not name come from the project's .venv."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    result: Literal["passed", "FAILED", "skipped"]
    where: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        line = f"{self.result:7} {self.where}: {self.what}"
        return f"{line}\n{textwrap.indent(self.detail.rstrip(), '    ')}" if self.detail else line


SUITES = (
    Suite(
        environment="current",
        checks=(
            "client_openai.py",
            "client_openai_tools.py",
            "client_mistralai.py",
            "client_mistralai_3.py",
            "client_langchain.py",
            "client_llama_index.py",
        ),
    ),
    Suite(environment="mistralai-1.12.4", checks=("client_mistralai.py",)),
    Suite(
        environment="mistralai-0.4.2",
        checks=(
            "client_mistralai_0.py",
            "client_mistralai_0_tools.py",
            "client_mistralai_0_fim.py",
        ),
    ),
    Suite(
        environment="mistralai-0.1.8",
        checks=("client_mistralai_0.py", "client_mistralai_0_tools.py"),
        examples=(
            "mixtral_8x22b_tutorial/chat.py",
            "mixtral_8x22b_tutorial/stream.py",
            "mixtral_8x22b_tutorial/embeddings.py",
            "mixtral_8x22b_tutorial/paraphrases.py",
            "mixtral_8x22b_tutorial/rag.py",
            "mixtral_8x22b_tutorial/function_calling.py",
        ),
    ),
    Suite(
        environment="mistralai-0.0.12",
        checks=("client_mistralai_0.py",),
        examples=(
            "mixtral_8x7b_guide/json_generation.py",
            "mixtral_8x7b_guide/chat_template.py",
            "mixtral_8x7b_guide/few_shot.py",
            "mixtral_8x7b_guide/code_generation.py",
            "mixtral_8x7b_guide/safe_mode.py",
        ),
    ),
    Suite(
        environment="transformers-4.46.3",
        examples=(
            "mixtral_8x7b_model_card/run_the_model.py",
            "mixtral_8x7b_model_card/half_precision.py",
        ),
        borrows_torch=True,
    ),
)
"""The slowest first, so that the two workers end at about the same time."""
