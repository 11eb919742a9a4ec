"""Getting Started With Mixtral 8X22B (DataCamp, May 2024): generating embeddings.

The tutorial gets 1024 dimensions; here it is as many as the model of ``--embedding-model`` has.

    pip install mistralai==0.1.8 python-dotenv
"""

import os
from dotenv import load_dotenv

load_dotenv()

api_key = os.getenv("MISTRAL_API_KEY")
endpoint = os.getenv("MISTRAL_ENDPOINT", "http://127.0.0.1:8000")  # the address

from mistralai.client import MistralClient

client = MistralClient(api_key=api_key, endpoint=endpoint)

to_embed = ["Is Messi better than Zidane?", "How about Ronaldo?"]

embeddings_batch_response = client.embeddings(
    model="mistral-embed",
    input=to_embed,
)

print(type(embeddings_batch_response))

print(len(embeddings_batch_response.data))

first_sentence = embeddings_batch_response.data[0]

print(len(first_sentence.embedding))  # Embedding dimension
