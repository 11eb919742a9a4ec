"""Answers that hold to a schema, a pattern or a choice."""

from mixtral.structured.compiler import GrammarCompiler
from mixtral.structured.grammar import Grammar, GrammarState

__all__ = ["Grammar", "GrammarCompiler", "GrammarState"]
