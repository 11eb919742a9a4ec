"""Getting Started With Mixtral 8X22B (DataCamp, May 2024): a RAG pipeline.

Two things differ from the page: the news are in ``news_piece.txt`` beside this file, in words of
our own about the same events, where the tutorial has the reader copy an article; and numpy is
imported before its first use, which the tutorial's notebook does in another order.

    pip install mistralai==0.1.8 python-dotenv numpy faiss-cpu
"""

import os
from dotenv import load_dotenv

load_dotenv()

api_key = os.getenv("MISTRAL_API_KEY")
endpoint = os.getenv("MISTRAL_ENDPOINT", "http://127.0.0.1:8000")  # the address

from mistralai.client import MistralClient
from mistralai.models.chat_completion import ChatMessage

client = MistralClient(api_key=api_key, endpoint=endpoint)

model = "open-mixtral-8x22b"


def get_text_embedding(input, client):
    embeddings_batch_response = client.embeddings(model="mistral-embed", input=input)

    return embeddings_batch_response.data[0].embedding


from pathlib import Path

file = Path(__file__).with_name("news_piece.txt")
text = file.read_text()

chunk_size = 512
chunks = [text[i : i + chunk_size] for i in range(0, len(text), chunk_size)]

print(len(chunks))

import numpy as np

text_embeddings = np.array([get_text_embedding(chunk, client) for chunk in chunks])

import faiss  # pip install faiss

d = text_embeddings.shape[1]
index = faiss.IndexFlatL2(d)

index.add(text_embeddings)

questions = [
    "How much is Microsoft going to spend for its new data center?",
    "When did FTX collapse?",
]

question_embeddings = np.array([get_text_embedding(q, client) for q in questions])

D, I = index.search(question_embeddings, k=4)  # distance, index

retrieved_chunk = [chunks[i] for i in I.tolist()[0]]

print(len(retrieved_chunk))

print(retrieved_chunk[2])

prompt = f"""
Context information is below.
---------------------
{retrieved_chunk}
---------------------
Given the context information and not prior knowledge, answer the query.
Query: {questions}
Answer:
"""

chat_response = client.chat(
    model=model,  # Mixtral 8x22B
    messages=[ChatMessage(role="user", content=prompt)],
)

print(chat_response.choices[0].message.content)
