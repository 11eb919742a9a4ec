"""Answers that hold to a JSON schema, a regular expression or a choice, whatever the weights.

``compiler`` turns what a request asks for into a ``Grammar``; each answer gets a state of it, which
tells the engine the tokens that may come next. llguidance finds those. The parts around it:

    response_format   the wire form
    schema_check      JSON Schema: what can be held is rewritten, the rest refused with its place
      references, keywords, numbers, patterns, formats, limits, node
    making            llguidance's compiler, and its errors
    grammar           states, masks on other threads, and the end in time
      closing, shortest   few tokens to a valid end; json_text keeps numbers and nesting readable
    vocabulary        SentencePiece's pieces as bytes

It knows nothing of the engine, torch or chat; ``Grammar.start`` returns what has the shape of
``mixtral.engine.constraint.Constraint``. docs/structured.md has the table of keywords.
"""

from mixtral.structured.compiler import GrammarCompiler
from mixtral.structured.grammar import Grammar, GrammarState

__all__ = ["Grammar", "GrammarCompiler", "GrammarState"]
