"""The definitions of 07c_translation, taken out of the notebook and put to the test."""

import itertools
import json
import os
import subprocess
import sys
import unicodedata

import keras
import numpy as np
import pytest
from helpers import ROOT, definitions, numpy_lstm
from num2words import num2words

from ae_keras import modelfile
from ae_keras.errors import ArgumentError

PATH = ROOT / "notebooks" / "07c_translation.ipynb"
FILE = ROOT / "saved_models" / "numbers" / "07c_translation.h5"
NAMES = ("greedy", "beam_search", "read", "translator", "step", "x_given", "target", "ExactMatch")
FEW = 40  # sentences of the test part, where all of them would take long


def build():
    given = {"num2words": num2words, "ArgumentError": ArgumentError, "unicodedata": unicodedata}
    return definitions(PATH, *NAMES, **given)


@pytest.fixture(scope="module")
def page():
    page = build()
    page["facts"] = modelfile.read(FILE).facts
    modelfile.set_weights(page["translator"], modelfile.read(FILE), FILE)
    return page


@pytest.fixture(scope="module")
def translated(page):
    """Return the words and scores of all test sentences, greedy and with a beam of five."""
    return page["greedy"](page["x"]["test"]), page["beam_search"](page["x"]["test"], 5)


def exact(page, words):
    return np.all(words == page["y"]["test"], axis=1)


def test_parts_are_disjoint_and_words_are_those_of_the_training_part(page):
    parts = page["parts"]
    assert [len(parts[part]) for part in ("test", "validation")] == [2000, 2000]
    every = np.concatenate(list(parts.values()))
    assert len(np.unique(every)) == len(every)
    assert every.min() > 0 and every.max() < 1_000_000
    assert len(parts["training"]) < 11_000  # "fewer than 11,000 of the million"
    spoken = {w for n in parts["training"] for w in num2words(int(n), lang="pt").split()}
    assert set(page["source_words"]) == spoken | {""}
    assert page["source_words"][""] == page["target_words"][""] == 0


def test_sentences_are_the_numbers(page):
    for part in page["parts"]:
        for row in range(0, 1000, 97):
            number = int(page["parts"][part][row])
            words = [*page["source_words"]]
            source = " ".join(words[n] for n in page["x"][part][row] if n)
            assert source == num2words(number, lang="pt").replace(",", "")
            assert page["read"](page["y"][part][[row]]) == [num2words(number).replace(",", "")]
            before, after = page["x_given"][part][1][row], page["y"][part][row]
            assert before[0] == page["target_words"]["<start>"]
            words = np.count_nonzero(after) - 1  # the last is <end>, after which nothing is asked
            np.testing.assert_array_equal(before[1 : words + 1], after[:words])  # one step ahead
            assert not before[words + 1 :].any() and after[words] == page["target_words"]["<end>"]


@pytest.mark.parametrize("language", ["pt", "pt_BR", "ro"])
def test_spell_writes_each_language_without_commas(page, language):
    assert "," not in page["spell"](234_567, language)
    assert len(page["spell"](np.int64(234_567), language).split()) >= 8


@pytest.mark.parametrize("number", [0, -1, 1_000_000, 1.5, "ten", None, True])
def test_spell_refuses_what_is_out_of_range(page, number):
    with pytest.raises(ArgumentError, match=r"out of range\. Give a whole number from 1 to"):
        page["spell"](number, "pt")


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("", "it has 0 words. Give 1 to 11 words"),
        ("   ", "it has 0 words"),
        ("vinte e one", "unknown word 'one'. Known:.*vinte"),
        ("zero", "unknown word 'zero'"),
        ("<start>", "unknown word '<start>'"),
        ("um milhão", "unknown word 'milhão'"),
        ("mil " * 12, "it has 12 words"),
    ],
)
def test_encode_refuses_what_it_cannot_read(page, sentence, message):
    with pytest.raises(ArgumentError, match=message):
        page["encode"]([sentence], page["source_words"], page["source_length"])


@pytest.mark.parametrize("sentences", ["vinte", [], [5], None, ["vinte", None]])
def test_encode_wants_a_list_of_sentences(page, sentences):
    with pytest.raises(ArgumentError, match="no list of sentences"):
        page["encode"](sentences, page["source_words"], page["source_length"])


def test_encode_reads_commas_capitals_and_letters_in_two_signs(page):
    arguments = page["source_words"], page["source_length"]
    plain = page["encode"](["dois mil e três"], *arguments)
    for other in ("Dois mil, e TRÊS", unicodedata.normalize("NFD", "dois mil e três")):
        np.testing.assert_array_equal(page["encode"]([other], *arguments), plain)


@pytest.mark.parametrize("width", [0, -1, 1.5, "5", None])
def test_beam_search_refuses_what_is_no_width(page, width):
    with pytest.raises(ArgumentError, match="width="):
        page["beam_search"](page["x"]["test"][:1], width)


def test_parameters(page):
    def lstm(inputs, units):
        return 4 * units * (inputs + units + 1)

    source, target = len(page["source_words"]), len(page["target_words"])
    wanted = 32 * (source + target) + 2 * lstm(32, 128) + target * (128 + 1)
    assert page["translator"].count_params() == wanted == page["facts"]["parameters"]
    assert FILE.stat().st_size <= 2_000_000
    shared = {id(v) for v in page["step"].weights} - {id(v) for v in page["translator"].weights}
    assert not shared, "the decoder that feeds itself has weights of its own"


def probabilities_by_numpy(page, sentences, given):
    """Compute what the translator says without Keras, one unpadded sentence at a time."""
    encoder = page["encoder"]
    (vectors,) = encoder.layers[1].get_weights()
    (target_vectors,) = page["embed"].get_weights()
    kernel, bias = page["next_word"].get_weights()
    for sentence, before in zip(sentences, given, strict=True):
        x = vectors[sentence[sentence > 0]][np.newaxis]
        _, h, c = numpy_lstm(encoder.layers[-1], x)
        outputs, _, _ = numpy_lstm(page["lstm"], target_vectors[before][np.newaxis], h, c)
        logits = outputs[0] @ kernel + bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        yield p / p.sum(axis=1, keepdims=True)


def test_translator_agrees_with_numpy_and_padding_does_not_matter(page):
    """Numpy reads each source sentence without its padding; a missing mask would show."""
    x, given = (a[:FEW] for a in page["x_given"]["test"])
    assert (x == 0).any(axis=1).sum() > FEW // 2
    ours = np.array(page["translator"]([x, given]))
    wanted = list(probabilities_by_numpy(page, x, given))
    for sentence, p, q in zip(page["y"]["test"], ours, wanted, strict=False):
        length = np.count_nonzero(sentence)
        np.testing.assert_allclose(p[:length], q[:length], atol=1e-5)


def test_loss_and_metrics_do_not_count_padding(page):
    x, given = (a[:FEW] for a in page["x_given"]["test"])
    y = page["y"]["test"][:FEW].copy()
    model = keras.Model(page["translator"].inputs, page["translator"].outputs)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="word_accuracy")
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=[accuracy, page["ExactMatch"]("exact")]
    )
    y[:5, 0] = page["target_words"]["seven"]  # make mistakes, so that the figures say something
    figures = model.evaluate([x, given], y, batch_size=16, verbose=0, return_dict=True)
    p = np.array(model([x, given]), dtype=np.float64)
    right = p.argmax(axis=-1) == y
    assert figures["word_accuracy"] == pytest.approx(right[y > 0].mean(), abs=1e-6)
    assert figures["exact"] == pytest.approx(np.mean(np.all(right | (y == 0), axis=1)))
    chosen = np.take_along_axis(p, y[..., np.newaxis], axis=-1)[..., 0]
    whole = model.evaluate([x, given], y, batch_size=FEW, verbose=0, return_dict=True)
    assert whole["loss"] == pytest.approx(-np.log(chosen[y > 0]).mean(), rel=1e-4)


def test_steps_give_what_the_whole_sentence_gives(page):
    x, given = (a[:FEW] for a in page["x_given"]["test"])
    wanted = np.array(page["translator"]([x, given]))
    h, c = page["encoder"](x)
    for t in range(given.shape[1]):
        p, h, c = page["step"]([keras.ops.convert_to_tensor(given[:, t : t + 1]), h, c])
        there = given[:, t] > 0
        np.testing.assert_allclose(np.array(p)[there, 0], wanted[there, t], atol=1e-5)


def test_reaches_what_is_claimed(page, translated):
    (words, _), (beam_words, _) = translated
    assert exact(page, words).mean() >= 0.97
    assert exact(page, beam_words).mean() >= 0.97


def test_teacher_forcing_and_greedy_decoding_agree_on_exact_matches(page, translated):
    (words, _), _ = translated
    saved = page["facts"]["held_out"]
    assert saved["exact_match"] == pytest.approx(exact(page, words).mean(), abs=6e-4)  # a near tie


def test_beam_of_one_is_greedy(page):
    x = page["x"]["test"][:500]
    words, score = page["greedy"](x)
    beam_words, beam_score = page["beam_search"](x, 1)
    np.testing.assert_array_equal(words, beam_words)
    np.testing.assert_allclose(score, beam_score, atol=1e-6)


def test_scores_are_the_log_probabilities_of_what_is_returned(page, translated):
    start = page["target_words"]["<start>"]
    for words, score in translated:
        words, score = words[:FEW], score[:FEW]
        given = np.insert(words, 0, start, axis=1)[:, :-1]
        sentences = page["x"]["test"][:FEW]
        every = probabilities_by_numpy(page, sentences, given)
        for row, total, p in zip(words, score, every, strict=True):
            length = np.count_nonzero(row)
            wanted = np.log(p[np.arange(length), row[:length]]).sum()
            assert total == pytest.approx(wanted, abs=1e-3)


def test_wide_beam_never_finds_a_less_probable_sentence(translated):
    (_, greedy_score), (_, beam_score) = translated
    assert np.all(beam_score >= greedy_score - 1e-5)


def test_beam_search_is_exact_where_the_beam_holds_all():
    """Three words, three steps and probabilities that depend on the whole past: try them all."""
    page = build()
    count, length, random = 5, 3, np.random.default_rng(3)
    page["target_words"] = {"": 0, "<end>": 1, "<start>": 2, "a": 3, "b": 4}
    page |= {"START": 2, "END": 1, "PAD": 0, "y": {"test": np.zeros((1, length))}}
    matrix, start = random.normal(size=(8, 8)), random.normal(size=(6, 8))
    embed, out = random.normal(size=(count, 8)), random.normal(size=(8, count))

    def step(inputs):
        word, h, c = map(np.asarray, inputs)
        h = np.tanh(h @ matrix + embed[word[:, 0]])
        p = np.exp(h @ out)
        return (p / p.sum(axis=1, keepdims=True))[:, np.newaxis], h, c

    page["step"], page["encoder"] = step, lambda x: (start[x[:, 0]], start[x[:, 0]])

    def best(n):
        found = {}
        for words in itertools.product([1, 2, 3, 4], repeat=length):
            if 1 in words:  # nothing comes after the end
                words = words[: words.index(1) + 1]
            h, total, last = start[[n]], 0.0, 2
            for word in words:
                p, h, _ = step([np.array([[last]]), h, h])
                total, last = total + np.log(p[0, 0, word]), word
            found[words + (0,) * (length - len(words))] = total
        return max(found.items(), key=lambda item: item[1])

    x = np.arange(6)[:, np.newaxis]
    words, score = page["beam_search"](x, 60)
    for n in range(6):
        wanted, total = best(n)
        assert tuple(words[n]) == wanted
        assert score[n] == pytest.approx(total, abs=1e-5)
    assert np.all(score >= page["greedy"](x)[1] - 1e-9)
    assert np.any(score > page["greedy"](x)[1] + 1e-3)


def test_a_fresh_process_translates_alike(page, translated):
    """With another hash seed, so that no order of a set survives."""
    code = f"""
import json, pathlib, sys
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT)]!r}
import test_07c_translation as t
page = t.build()
t.modelfile.set_weights(page["translator"], t.modelfile.read(t.FILE), t.FILE)
print(json.dumps([page["read"](page["greedy"](page["x"]["test"])[0]), list(page["target_words"])]))
"""
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
        sentences, words = json.loads(done.stdout.strip().rpartition("\n")[2])
        assert words == list(page["target_words"])
        assert sentences == page["read"](translated[0][0])


def test_layers_made_in_another_order_translate_alike(page, translated):
    """Keras numbers layers as they are made; the weights must find theirs all the same."""
    keras.layers.Embedding(3, 2), keras.layers.LSTM(2), keras.layers.Dense(2)
    other = build()
    modelfile.set_weights(other["translator"], modelfile.read(FILE), FILE)
    words, _ = other["greedy"](other["x"]["test"][:200])
    np.testing.assert_array_equal(words, translated[0][0][:200])


def test_wrong_translations_are_less_certain(page, translated):
    """What the page says of its failures: their own probability gives them away."""
    words, score = translated[0]
    right = exact(page, words)
    assert 0 < np.sum(~right) < 60
    assert np.median(score[~right]) < np.quantile(score[right], 0.05)
