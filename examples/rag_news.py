"""Answers from documents: the passages that fit a question are found, shown to the model, cited.

The news are those of the tutorial on Mixtral 8x22B, in words of our own. On the command line:
mixtral rag add FILES, then mixtral rag ask QUESTION. It needs the extra ``rag``; see docs/rag.md.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from mixtral import LLM
from mixtral.embed import Embedder
from mixtral.rag import Collection, CollectionSettings
from mixtral.rag.ask import ask

NEWS = Path(__file__).parent / "guides" / "mixtral_8x22b_tutorial" / "news_piece.txt"
QUESTIONS = (
    "How much is Microsoft going to spend for its new data center?",
    "When did FTX collapse?",
    "Who won the marathon?",
)

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))
short = CollectionSettings(chunk_tokens=128)  # a passage for each piece of news
with TemporaryDirectory() as folder, Collection.of(folder, Embedder(), settings=short) as news:
    (added,) = news.add([NEWS])  # files, folders, globs
    print(f"{added.title}: {added.num_chunks} passages")
    for question in QUESTIONS:
        answer = ask(llm, news, question)
        print(f"\n> {question}\n{answer.text}")
        for number, passage in enumerate(answer.passages, start=1):
            print(f"[{number}] {passage.similarity:.2f} {passage.text[:70]!r}...")
        for citation in answer.citations:
            print(f"cites [{citation.number}]: {citation.text[:70]!r}")
