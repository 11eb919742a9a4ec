"""Function calling for both templates of Mixtral.

``plan_tools`` turns the fields of a request into a ``ToolPlan``: messages for the template, a
grammar that makes calls valid, and a ``ToolCallReader`` per answer that gives calls out as they
become whole. ``docs/function-calling.md`` is the guide.

    definitions   tools and tool_choice, checked
    history       ids and results of earlier turns
    markers       what announces calls: a control token in v3, a text in v1
    plain_turns   tools, calls and results as text, for v1
    schemas       the schema of arguments, moved into that of the calls
    grammar       the list of calls as a grammar
    constraint    text until the marker, the grammar behind it
    reader        calls out of the answer
    plan          all of it for one request

Calling the functions is the client's work.
"""

from mixtral.tools.plan import ToolPlan, plan_tools
from mixtral.tools.reader import ToolCallReader

__all__ = ["ToolCallReader", "ToolPlan", "plan_tools"]
