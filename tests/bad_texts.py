"""One of every kind of text that a run refuses: lines of metadata.jsonl, folders, and run files."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from bad_photos import HEADER, entry, photo, write

A0, A1, B0, B1 = entry("a", 0), entry("a", 1), entry("b", 0), entry("b", 1)
DEEP = "[" * 200_000


def lines(*written) -> Callable[[Path], None]:
    return lambda folder: write(folder, *written)


def last(**changes) -> Callable[[Path], None]:
    """The sound text but for its last line, of b01.png."""
    return lines(HEADER, A0, A1, B0, entry("b", 1, **changes))


def header(**changes) -> Callable[[Path], None]:
    return lines(HEADER | changes, A0, A1, B0, B1)


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "metadata.jsonl").write_bytes(content) and None


def link_out(folder: Path) -> None:
    photo(9).save(folder.parent / "elsewhere.png")
    (folder / "b01.png").unlink()
    (folder / "b01.png").symlink_to(folder.parent / "elsewhere.png")


def link_to_itself(folder: Path) -> None:
    (folder / "b01.png").unlink()
    (folder / "b01.png").symlink_to("b01.png")


def pipe(folder: Path) -> None:
    (folder / "b01.png").unlink()
    os.mkfifo(folder / "b01.png")


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


# Kind, what is done to a sound folder, words of the answer.
TEXTS: tuple[tuple[str, Callable[[Path], None], tuple[str, ...]], ...] = (
    ("no metadata.jsonl", removed("metadata.jsonl"), ("metadata.jsonl: no such file", "write a header like")),
    ("an empty metadata.jsonl", raw(b"\n \n"), ("the file is empty", "header like")),
    ("a Git LFS pointer", raw(b"version https://git-lfs.github.com/spec/v1\n"), ('run "git lfs pull"',)),
    ("UTF-16", raw(json.dumps(HEADER).encode("utf-16")), ("is not UTF-8", "save the file as UTF-8")),
    ("Latin-1", raw(json.dumps(HEADER).encode() + b"\n\xe9"), ("byte 50 is not UTF-8", "save the file as UTF-8")),
    ("no header", lines(A0, B0), (":1:", "must be a header like")),
    ("an unknown key in the header", header(querys={}), (":1:", "must be a header like")),
    ("one subject", lines({"id": {"a": "olis corgi"}}, A0), (":1:", "1 subject(s)", "two or more")),
    ("a subject without a class", header(id={"a": "olis corgi", "b": "hta"}), (":1:", '"b" is only "hta"')),
    ("two subjects with one identifier", header(id={"a": "olis corgi", "b": "OLIS dog"}), (":1:", "OLIS", "its own rare word")),
    ("a subject key ..", header(id={"a": "olis corgi", "..": "hta dog"}), (":1:", '".."', "must be a letter")),
    ("a subject key CON", header(id={"a": "olis corgi", "CON": "hta dog"}), (":1:", '"CON"', "choose another")),
    ("a key twice", lines('{"id": {"a": "olis corgi", "a": "hta dog"}}', A0), (":1:", '"a" occurs twice')),
    ("a query for no subject", header(query={"c": "dog"}), (":1:", "a, b")),
    ("a subject without a photo", lines(HEADER, A0, A1), (":1:", '"b" has no photo', "add a line")),
    ("a line that is no JSON", lines(HEADER, A0, B0, "{'id': 'b'}"), (":4:", "not a JSON object", "correct or remove")),
    ("brackets 200,000 deep", lines(HEADER, A0, B0, DEEP), (":4:", "nested too deep")),
    ("a number of 5000 digits", lines(HEADER, A0, B0, '{"id": ' + "9" * 5000 + "}"), (":4:", "not a JSON object")),
    ("a list", lines(HEADER, A0, B0, "[1]"), (":4:", "not a JSON object but '[1]'")),
    ("an unknown id", last(id="c"), (":5:", 'unknown id "c"', "a, b")),
    ("an id that is no text", last(id=["b"]), (":5:", '"id" is ["b"]')),
    ("an unknown key", last(mask="mask_b01.png"), (":5:", 'unknown key "mask"', "mask_path")),
    ("a photo listed twice", lines(HEADER, A0, A1, B0, B0), (":5:", '"b00.png" is listed twice')),
    ("a photo that is not there", last(file_name="z.png"), (":5:", '"z.png"', "no such file")),
    ("a mask that is not there", last(mask_path="z.png"), (":5:", '"z.png"', "no such file")),
    ("a photo named as a device", last(file_name="nul.png"), (":5:", '"nul.png"', "rename the file")),
    ("a mask that is the photo", last(mask_path="b01.png"), (":5:", "the photo itself")),
    ("a folder as a photo", last(file_name="."), (":5:", '"."', "no such file")),
    ("a named pipe as a photo", pipe, (":5:", "no such file")),
    ("an absolute path", last(file_name="/etc/passwd"), (":5:", "/etc/passwd", "outside the folder")),
    ("a path with ..", last(file_name="../../etc/passwd"), (":5:", "../../etc/passwd", "outside the folder")),
    ("a link out of the folder", link_out, (":5:", "outside the folder", "copy the file into it")),
    ("a link to itself", link_to_itself, (":5:", "b01.png")),
    ("NUL in a name", last(file_name="b\0.png"), (":5:", '"b\\u0000.png"', "control characters")),
    ("a newline in a name", last(file_name="b\n.png"), (":5:", '"b\\n.png"', "control characters")),
    ("half a surrogate pair in a name", last(file_name="\ud800.png"), (":5:", "broken Unicode")),
    ("a name of 1000 characters", last(file_name="b" * 1000), (":5:", "is no path", "too long")),
    ("an empty caption", last(text=" "), (":5:", '"text" is " "', "give it a text")),
    ("a caption without the identifier", last(text="A chow chow on polished wood."), (":5:", 'does not name "hta"')),
    ("a caption with the other's identifier", last(text="A hta chow chow and olis."), (":5:", 'names "olis"', "ordinary words")),
    ("control characters in a caption", last(text="hta \x1b[31m"), (":5:", '"text"', "control characters")),
    ("a caption of 1 MB", last(text="hta " + "x" * 1_000_000), (":5:", "1000004 characters", "2000 at most")),
)

RUN = "name: {}\nruns: RUNS\ncombinations: [PAIR]\ncandidates: 8\nkeep: 2\nprompts: ['a photo of {{subjects}}']\n".format("two-toys")
# Kind, the run file's text or bytes, words of the answer. PAIR and RUNS stand for the sound folder and a place for results.
RUN_FILES: tuple[tuple[str, str | bytes, tuple[str, ...]], ...] = (
    ("an empty file", "", ("is empty",)),
    ("a list", "- a\n", ("line 1", "is a list")),
    ("a tab", RUN + "sampling:\n\tsteps: 3\n", ("line 8, column 1", "a tab; indent with spaces")),
    ("a key twice", RUN + "seed: 1\nseed: 2\n", ("line 8", "duplicate key 'seed'", "line 7")),
    ("a misspelt key", RUN + "sead: 1\n", ("line 7", "did you mean 'seed'?")),
    ("a word for a number", RUN + "retrain: {learning_rate: fast}\n", ("line 7", "retrain.learning_rate", '"fast"')),
    ("not a number", RUN + "retrain: {learning_rate: .nan}\n", ("line 7", "not a finite number")),
    ("infinity", RUN + "retrain: {kl_weight: .inf}\n", ("line 7", "not a finite number")),
    ("a negative count", RUN + "sampling: {steps: -3}\n", ("line 7", "sampling.steps", "-3")),
    ("a tag that names code", RUN + "method: !!python/object:os.system {}\n", ("line 7", "python/object:os.system", "not allowed")),
    ("aliases", RUN + "queries: &x {}\nmethod: *x\n", ("line 7", "anchors and aliases")),
    ("brackets 500 deep", RUN + "queries: " + "[" * 500 + "\n", ("line", "levels deep")),
    ("UTF-16", RUN.encode("utf-16"), ("not UTF-8 text", "save it as UTF-8")),
    ("Latin-1", b"name: caf\xe9\n", ("not UTF-8 text (byte 9)",)),
    ("a byte NUL", b"name: a\0b\n", ("plain UTF-8 text",)),
    ("a file of 2 MB", b"#" * 2_000_000, ("larger than 1000000 bytes",)),
    ("a name that is a path", RUN.replace("two-toys", "../two"), ("line 1", "name", "../two")),
    ("a combination that is not there", RUN.replace("PAIR", "PAIR/../nowhere"), ("nowhere: no such folder",)),
    ("a combination twice", RUN.replace("PAIR", "PAIR, PAIR"), ("line 3", "two folders are named 'pair'")),
    ("a placeholder of no subject", RUN.replace("{subjects}", "{c}"), ("unknown placeholder {c}",)),
    ("a prompt without a subject", RUN.replace("{subjects}", "grass"), ("names no subject",)),
    ("more to keep than is drawn", RUN.replace("keep: 2", "keep: 9"), ("line 5", "more than candidates (8)")),
    ("an unknown model", RUN + "models: {backbone: no-such-model}\n", ("no-such-model", "neither an existing folder")),
    ("a hub id without a revision", RUN + "models: {detector: owner/name}\n", ("owner/name@REVISION",)),
    ("a pickle as a model", RUN + "models: {backbone: model.ckpt}\n", ("a pickled file", "can run code")),
    ("an unknown method", RUN + "method: {name: modi}\n", ("modi", "allowed are")),
    ("an environment variable", RUN.replace("PAIR", "'${HOME}/pair'"), ("line 3", "${HOME} is not filled in")),
    ("a key named like a secret", RUN + "tracker: {api_key: abc}\n", ("line 7", "tracker.api_key", "looks like a secret")),
    (
        "a value that looks like a secret",
        RUN + "models: {backbone: hf_" + "x" * 34 + "}\n",
        ("line 7", "models.backbone", "looks like a secret"),
    ),
    ("an address for results", RUN.replace("RUNS", "s3://bucket"), ("'s3://bucket' is an address",)),
    ("a file in place of the results' folder", RUN.replace("RUNS", "PAIR/metadata.jsonl"), ("runs:", "is no folder")),
)

# Name of a folder or other thing that is given as one, how it comes to be, words of the answer.
FOLDERS: tuple[tuple[str, bytes, Callable[[Path], None], tuple[str, ...]], ...] = (
    ("no folder", b"nowhere", lambda path: None, ("nowhere: no such folder",)),
    ("a file", b"file", lambda path: path.touch(), ("file: no such folder", "give a folder")),
    ("an empty folder", b"empty", lambda path: path.mkdir(), ("metadata.jsonl: no such file", "write a header like")),
    ("a name with blanks", b"my pair", lambda path: path.mkdir(), ("rename it to letters",)),
    ("a name of a device", b"CON", lambda path: path.mkdir(), ("a device on some systems",)),
    ("a name that is not UTF-8", b"caf\xe9", lambda path: path.mkdir(), ("caf", "rename it to letters")),
)
