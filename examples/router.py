"""What the experts do: who was asked for each token, and how the work was shared.

In each layer a router picks two of eight experts for each token and weighs their outputs.
``mixtral routing`` makes a whole report of it; docs/routing.md explains the numbers.
"""

import os

from mixtral import LLM

TEXT = "def add(a, b):\n    return a + b\n\nOnce upon a time there lived a king and a queen."

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))
num_experts = llm.config.num_experts
token_ids = llm.tokenizer.encode(TEXT)
trace = llm.route(token_ids)  # expert_ids and routing_weights [T, L, A]

layer = llm.config.num_hidden_layers // 2
print(f"layer {layer}: token, its experts and their weights")
ids, weights = trace.expert_ids[:, layer].tolist(), trace.routing_weights[:, layer].tolist()
for token, chosen, shares in zip(token_ids, ids, weights, strict=True):
    pairs = [f"{e} ({share:.2f})" for e, share in zip(chosen, shares, strict=True)]
    print(f"{llm.tokenizer.decode_token(token)!r:>14}  {'  '.join(pairs)}")

print(f"\nshare of the work of each of the {num_experts} experts, per layer")
for number, chosen in enumerate(trace.expert_ids.unbind(1)):
    load = chosen.flatten().bincount(minlength=num_experts) / chosen.numel()
    print(f"layer {number}: " + " ".join(f"{share:5.1%}" for share in load.tolist()))

first = trace.expert_ids[:, layer, 0]
kept = (first[1:] == first[:-1]).float().mean().item()
print(f"\nthe first expert stays from token to token: {kept:.0%}, by chance {1 / num_experts:.0%}")
