"""Paraphrases: which sentences say the same, by the distance of their embeddings.

The first three sentences, and the table of their distances, are those of the tutorial on Mixtral
8x22B. On the command line: mixtral paraphrase FILE. It needs the extra ``embed``.
"""

from mixtral.embed import Embedder
from mixtral.paraphrase import all_pairs, find_paraphrases

SENTENCES = [
    "What led to Zidane's ban from football?",
    "This is a totally different sentence.",
    "What caused Zidane to get banned from football?",
    "How do I bake a loaf of bread?",
    "How can I bake bread at home?",
]

embedder = Embedder()
print("distance  cosine")
for pair in all_pairs(SENTENCES[:3], embedder):
    print(f"{pair.distance:8.3f}  {pair.cosine:6.3f}  {SENTENCES[pair.first]}")
    print(f"{'':16}  {SENTENCES[pair.second]}")

# An index finds the near pairs among many sentences without comparing all of them.
found = find_paraphrases(SENTENCES, embedder, threshold=0.8)
for number, cluster in enumerate(found.clusters, start=1):
    print(f"\ncluster {number}:")
    for place in cluster:
        print(f"  {SENTENCES[place]}")
