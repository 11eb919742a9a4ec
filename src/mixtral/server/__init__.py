"""The HTTP API that Mistral's and OpenAI's clients speak, over ``mixtral.AsyncLLM``.

``create_app`` in ``app`` builds the FastAPI application from a ``Service``; ``run`` starts it. The
way of a request, one file per stop:

    limits -> body (bytes to JSON) -> schemas (JSON to fields) -> convert (fields to SamplingParams)
    -> AsyncLLM -> answers (pieces to one answer) or stream and sse (pieces to events)

Every error leaves through ``errors``. Nothing here knows tensors, and nothing below knows HTTP.
This file imports nothing, so that reading the settings does not import FastAPI.
"""
