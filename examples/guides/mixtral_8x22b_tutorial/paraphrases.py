"""Getting Started With Mixtral 8X22B (DataCamp, May 2024): paraphrase detection with embeddings.

pip install mistralai==0.1.8 python-dotenv scikit-learn
"""

import os
from dotenv import load_dotenv

load_dotenv()

api_key = os.getenv("MISTRAL_API_KEY")
endpoint = os.getenv("MISTRAL_ENDPOINT", "http://127.0.0.1:8000")  # the address

from mistralai.client import MistralClient

client = MistralClient(api_key=api_key, endpoint=endpoint)


def get_text_embedding(input, client):
    embeddings_batch_response = client.embeddings(model="mistral-embed", input=input)

    return embeddings_batch_response.data[0].embedding


sentences = [
    "What led to Zidane's ban from football?",
    "This is a totally different sentence.",
    "What caused Zidane to get banned from football?",
]

sentence_embeddings = [get_text_embedding(t, client) for t in sentences]

import itertools

sentence_embeddings_pairs = list(itertools.combinations(sentence_embeddings, 2))
sentence_pairs = list(itertools.combinations(sentences, 2))

print(sentence_pairs[0])

from sklearn.metrics.pairwise import euclidean_distances

for s, e in zip(sentence_pairs, sentence_embeddings_pairs):
    distance = euclidean_distances([e[0]], [e[1]])

    print(s, distance)
