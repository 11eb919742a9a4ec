"""Whole reports of tiny models: against loops, in every form, and read by those who need them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mixtral.checkpoint import packed_config, quantized_tensors
from mixtral.errors import ConfigError, UnsupportedError
from mixtral.kernels.cpu import load_library
from mixtral.model import CpuTransformer, Transformer
from mixtral.quantization import find_recipe
from mixtral.routing import (
    RoutedModel,
    compare_routing,
    coverage_report,
    measure_experts_per_token,
    measure_routing,
    using_experts,
)
from mixtral.routing.experts_per_token import active_parameters, parse_experts_per_token
from mixtral.routing.page import report_page
from mixtral.routing.tables import report_markdown
from mixtral.routing.texts import find_domains, sequences_of
from mixtral.routing.token_kinds import TokenKind, kinds_of_vocabulary
from mixtral.tokenizer import load_tokenizer
from mixtral.train.lora_settings import LoraSettings, read_expert_loads
from tests.models_for_tests import tiny_model

_TEXTS = {"one": [[1, 5, 9, 9, 30, 44, 5], [1, 7]], "two": [list(range(100, 140))]}
_JOINED = [sequence for sequences in _TEXTS.values() for sequence in sequences]

needs_library = pytest.mark.skipif(load_library() is None, reason="the C++ library is not built")


def _packed(model: Transformer) -> CpuTransformer:
    tensors = ((name, p.detach()) for name, p in model.named_parameters())
    config = packed_config(model.config)
    return CpuTransformer(config, quantized_tensors(tensors, model.config, find_recipe("int8")))


def test_report_counts_what_the_model_routes() -> None:
    model = tiny_model()
    report = measure_routing(RoutedModel(model, "tiny"), _TEXTS)
    visits = torch.zeros(2, 4, dtype=torch.int64)
    for sequence in _JOINED:
        for layers in model.route(sequence).expert_ids.tolist():
            for layer, chosen in enumerate(layers):
                visits[layer, chosen] += 1
    assert report.visits == visits.tolist()
    assert report.num_tokens == 49
    assert [(d.name, d.num_tokens) for d in report.domains] == [("one", 9), ("two", 40)]
    assert sum(group.num_tokens for group in report.positions) == 49
    assert report.kinds == []
    assert report.num_distinct_tokens == len({i for s in _JOINED for i in s})


def test_long_sequences_in_steps_are_routed_as_in_one_pass() -> None:
    model = tiny_model(max_position_embeddings=1024)
    ids = [1, *(i % 500 for i in range(600))]
    trace, whole = RoutedModel(model, "tiny").route(ids), model.route(ids)
    assert torch.equal(trace.expert_ids, whole.expert_ids)
    torch.testing.assert_close(trace.router_logits, whole.router_logits, rtol=1e-3, atol=1e-4)


def test_perplexity_of_own_setting_is_that_of_the_logits() -> None:
    model = tiny_model()
    (own,) = measure_experts_per_token(RoutedModel(model, "tiny"), _JOINED, [])
    losses = []
    for ids in _JOINED:
        scores = model.whole_logits(ids)[:-1].log_softmax(dim=-1)
        losses.append(-scores[range(len(ids) - 1), ids[1:]])
    assert own.is_trained
    assert own.num_predicted == sum(map(len, losses))
    assert own.perplexity == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-4)


def test_other_numbers_of_experts_are_those_of_a_model_made_so() -> None:
    model = tiny_model()
    ids = _JOINED[2]
    with using_experts(model, [3, 3]) as changed:
        found = changed.whole_logits(ids)
    made = Transformer.from_tensors(
        model.config.replace(num_experts_per_tok=3), model.state_dict().items()
    )
    torch.testing.assert_close(found, made.whole_logits(ids))
    assert model.config.num_experts_per_tok == 2
    assert model.route(ids).expert_ids.shape[2] == 2


def test_layers_may_use_different_numbers_of_experts() -> None:
    routed = RoutedModel(tiny_model(), "tiny")
    own, mixed = measure_experts_per_token(routed, _JOINED, [(2, 2), (1, 3)])
    assert mixed.counts == (1, 3)
    assert mixed.perplexity != own.perplexity
    assert mixed.num_active_parameters == own.num_active_parameters
    with using_experts(routed.model, (1, 3)) as changed:
        visits = measure_routing(RoutedModel(changed, "tiny"), _TEXTS).visits
    assert [sum(layer) for layer in visits] == [49, 3 * 49]


@needs_library
def test_packed_weights_change_their_experts_layer_by_layer_in_cpp() -> None:
    model = tiny_model()
    packed = _packed(model)
    routed = RoutedModel(packed, "tiny int8")
    with using_experts(packed, (1, 1)) as changed:
        assert changed.route(_JOINED[2]).expert_ids.shape[2] == 1
    settings = [(3, 3), (1, 3), (3, 1), (1, 2)]
    in_cpp = measure_experts_per_token(routed, _JOINED, settings)
    in_torch = measure_experts_per_token(RoutedModel(model, "tiny"), _JOINED, settings)
    assert {each.runs_in for each in in_cpp} == {"C++"}
    assert len({each.perplexity for each in in_cpp}) == len(settings) + 1
    for one, other in zip(in_cpp, in_torch, strict=True):
        assert one.counts == other.counts
        assert one.perplexity == pytest.approx(other.perplexity, rel=0.05)


@needs_library
def test_cpp_reports_no_expert_where_a_layer_has_fewer() -> None:
    ids = _JOINED[2]
    with using_experts(_packed(tiny_model()), (1, 3)) as changed:
        trace = changed.route(ids)
    narrow, wide = trace.expert_ids[:, 0], trace.expert_ids[:, 1]
    assert (narrow[:, 0] >= 0).all()
    assert (narrow[:, 1:] == -1).all()
    assert (trace.routing_weights[:, 0, 0] == 1).all()
    assert (trace.routing_weights[:, 0, 1:] == 0).all()
    assert (wide >= 0).all()
    assert trace.expert_load().sum(axis=1).tolist() == [len(ids), 3 * len(ids)]


def test_active_parameters_follow_the_experts() -> None:
    config = tiny_model().config
    assert active_parameters(config, (2, 2)) == config.num_active_parameters
    assert active_parameters(config, (3, 3)) == (
        config.replace(num_experts_per_tok=3).num_active_parameters
    )


@pytest.mark.parametrize("text", ["0", "5", "1,2,3", "two", "", "1,", "-1", "1.0", "9" * 5000])
def test_wrong_numbers_of_experts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="experts per token is"):
        parse_experts_per_token(text, tiny_model().config)


def test_a_model_is_like_itself() -> None:
    model = tiny_model()
    first, second = RoutedModel(model, "a"), RoutedModel(model, "b")
    comparison = compare_routing(first, second, _JOINED)
    assert comparison.num_tokens == 49
    assert comparison.first_perplexity == comparison.second_perplexity
    assert comparison.prediction_kl == 0
    for layer in comparison.layers:
        assert (layer.same_set, layer.same_first, layer.swap_rate) == (1, 1, 0)
        assert (layer.kl, layer.load_distance) == (0, 0)


def test_comparison_counts_what_a_loop_counts() -> None:
    one, other = tiny_model(seed=0), tiny_model(seed=1)
    comparison = compare_routing(RoutedModel(one, "a"), RoutedModel(other, "b"), _JOINED)
    same = swapped = 0
    divergence = 0.0
    for ids in _JOINED:
        first, second = one.route(ids), other.route(ids)
        for t in range(len(ids)):
            a, b = (set(trace.expert_ids[t, 1].tolist()) for trace in (first, second))
            same += a == b
            swapped += len(a - b)
            p, q = (trace.router_logits[t, 1].double().softmax(0) for trace in (first, second))
            divergence += float((p * (p / q).log()).sum())
    layer = comparison.layers[1]
    assert layer.same_set == same / 49
    assert layer.swap_rate == pytest.approx(swapped / 98)
    assert layer.kl == pytest.approx(divergence / 49, rel=1e-4)
    assert layer.same_set < 1


def test_other_geometry_is_refused() -> None:
    first = RoutedModel(tiny_model(), "a")
    second = RoutedModel(tiny_model(num_hidden_layers=3), "b")
    with pytest.raises(ConfigError, match="num_hidden_layers is 2 in a and 3 in b"):
        compare_routing(first, second, _JOINED)


def test_dense_model_is_refused() -> None:
    dense = tiny_model(num_local_experts=0, num_experts_per_tok=0)
    with pytest.raises(UnsupportedError, match="dense"):
        RoutedModel(dense, "dense")


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ({}, "no text"),
        ({"a": []}, "shorter than 2"),
        ({"a": [[1]]}, "shorter than 2"),
        ({"a": [[]]}, "0 tokens"),
        ({"a": [[1, 512]]}, "token ids"),
        ({"a": [[1] * 257]}, "context"),
    ],
)
def test_texts_that_cannot_be_run_are_refused(
    texts: dict[str, list[list[int]]], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        measure_routing(RoutedModel(tiny_model(), "tiny"), texts)


def test_export_is_read_by_the_recipe_of_an_adapter(tmp_path: Path) -> None:
    model = tiny_model()
    report = measure_routing(RoutedModel(model, "tiny"), _TEXTS)
    path = tmp_path / "loads.json"
    values = coverage_report(model="tiny", visits=report.visits, min_tokens_per_expert=20)
    path.write_text(json.dumps(values))
    loads = read_expert_loads(path, model.config)
    assert loads == [layer.load for layer in report.layers]
    settings = LoraSettings(targets=("experts",), experts="busiest:1", expert_loads=str(path))
    busiest = [max(range(4), key=load.__getitem__) for load in loads]
    for layer, expert in enumerate(busiest):
        names = [n for n in settings.specs(model.config) if n.startswith(f"model.layers.{layer}.")]
        assert {int(name.split(".")[5]) for name in names} == {expert}
    starved = {(s["layer"], s["expert"]) for s in values["coverage"]["starved"]}
    expected = {(i, e) for i, row in enumerate(report.visits) for e in range(4) if row[e] < 20}
    assert starved == expected
    assert expected


def test_page_needs_no_other_file_and_escapes_what_it_shows() -> None:
    model = tiny_model(vocab_size=32768, hidden_size=16)
    texts = {"<b>&books": [[1, 100, 2000, 781, 1501]]}
    tokenizer = load_tokenizer("v3")
    routed = RoutedModel(model, "<script>alert(1)</script>")
    report = measure_routing(routed, texts, tokenizer)
    comparison = compare_routing(routed, routed, texts["<b>&books"])
    experts = measure_experts_per_token(routed, texts["<b>&books"], [(1, 1)])
    page = report_page(report, comparison, experts)
    assert not re.search(r"https?:|//|\bsrc\s*=|<link|@import|url\(", page)
    assert page.count("<script") == 1
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;books" in page
    assert page.count('<section class="layer"') == 2
    assert page.count("<table") == page.count("<caption>")
    assert page.count("<svg viewBox") == page.count('role="img" aria-label="')
    assert "<b>&books" in report_markdown(report, comparison, experts)


def test_kinds_cover_the_vocabulary() -> None:
    tokenizer = load_tokenizer("v3")
    kinds = kinds_of_vocabulary(tokenizer, 32768 + 8)
    assert len(kinds) == 32768 + 8
    for text, kind in (
        ("Hello", TokenKind.WORD_START),
        ("\n", TokenKind.WHITESPACE),
        ("7", TokenKind.DIGITS),
        ("+", TokenKind.PUNCTUATION),
    ):
        assert kinds[tokenizer.encode(text, bos=False)[-1]] == kind
    assert kinds[tokenizer.bos_id] == TokenKind.CONTROL
    assert kinds[-1] == TokenKind.CONTROL
    assert set(kinds.tolist()) == set(TokenKind)


def test_files_and_folders_are_domains(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("abc")
    (tmp_path / "code" / "deep").mkdir(parents=True)
    (tmp_path / "code" / "deep" / "a.py").write_text("x = 1")
    (tmp_path / "code" / ".hidden").write_text("no")
    code = tmp_path / "code"
    domains = find_domains([tmp_path / "book.txt", code, f"again={code}"])
    assert [domain.name for domain in domains] == ["book", "code", "again"]
    assert [file.name for file in domains[1].files] == ["a.py"]


def test_wrong_texts_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_text("")
    for arguments, match in (
        ([], "no text"),
        ([tmp_path / "none.txt"], "does not exist"),
        ([tmp_path / "empty"], "has no files"),
        ([tmp_path / "short.txt"] * 2, "two texts are called short"),
    ):
        with pytest.raises(ConfigError, match=match):
            find_domains(arguments)

    def read(path: Path) -> Iterator[list[int]]:
        yield [1, 5]

    found = sequences_of(find_domains([tmp_path / "short.txt"]), read)
    with pytest.raises(ConfigError, match="shorter than 2 tokens"):
        list(found["short"])
