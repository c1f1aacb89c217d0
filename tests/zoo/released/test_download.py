"""Released weights, from a server on this machine: whole, resumed, damaged, absent."""

import errno
import hashlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zoo.released.conftest import CONTENT, NAME, cached
from zoo.find import find_weights_file
from zoo.formats import READERS
from zoo.load import load_variables
from zoo.registry import MODELS, create_model
from zoo.released.locate import find_cached, locate
from zoo.released.table import MARK, RELEASED, File

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_a_download_is_whole_verified_and_made_once(server, release, capfd):
    release(sha256=SHA256)
    assert find_cached(NAME) is None
    path = locate(NAME)
    assert path == cached(NAME, "weights.bin") == find_cached(NAME)
    assert path.read_bytes() == CONTENT
    assert {file.name for file in path.parent.iterdir()} == {"weights.bin", "lock", "sha256.json"}
    assert f"downloading {server.url}/{NAME}/weights.bin" in capfd.readouterr().err
    assert locate(NAME) == path
    assert len(server.asked) == 1


def test_what_broke_off_goes_on(server, release):
    release()
    server.breaks = [100_000, 50_000]
    assert locate(NAME).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_killed_process_goes_on_where_it_was(server, release):
    release()
    server.breaks = [100_000, 0, 0, 0]  # no more comes: it gives up
    with pytest.raises(ValueError, match="broke after 100,000 of 300,000 bytes"):
        locate(NAME)
    assert cached(NAME, "weights.bin.part").stat().st_size == 100_000
    assert find_cached(NAME) is None
    assert locate(NAME).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=100000-"


def test_a_server_without_ranges_sends_it_again(server, release):
    release(sha256=SHA256)
    server.knows_ranges, server.breaks = False, [100_000]
    assert locate(NAME).read_bytes() == CONTENT


def test_another_file_of_the_same_name_is_not_mixed_with_a_part(server, release):
    release()
    server.breaks = [100_000, 0, 0, 0]
    with pytest.raises(ValueError):
        locate(NAME)
    other = CONTENT[::-1]
    server.files[f"/{NAME}/weights.bin"] = other
    assert locate(NAME).read_bytes() == other


def test_a_part_as_long_as_the_file_or_longer(server, release):
    """As a process leaves it that was killed before it gave the file its name."""
    release()
    cached(NAME).mkdir(parents=True)
    cached(NAME, "weights.bin.part").write_bytes(CONTENT + b"more")
    etag = f'"{hashlib.md5(CONTENT).hexdigest()}"'
    cached(NAME, "weights.bin.part.validator").write_text(etag)
    assert locate(NAME).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, release, capfd):
    release()
    server.busy = 2
    assert locate(NAME).read_bytes() == CONTENT
    said = f"{NAME}: the server answers 503, Service Unavailable; again in 0 s"
    assert capfd.readouterr().err.count(said) == 2
    assert len(server.asked) == 3


@pytest.mark.parametrize("digits", [64, 8])
def test_a_wrong_checksum_keeps_nothing(server, release, digits):
    wrong = hashlib.sha256(b"other").hexdigest()[:digits]
    release(sha256=wrong)
    with pytest.raises(ValueError) as error:
        locate(NAME)
    assert f"came with SHA-256 {SHA256}, not {wrong}; it is not kept" in str(error.value)
    assert "\n" not in str(error.value)
    assert [file.name for file in cached(NAME).glob("weights*")] == ["weights.bin.part.validator"]


def test_the_first_digits_of_a_hash_suffice(server, release):
    release(sha256=SHA256[:8])
    assert locate(NAME).read_bytes() == CONTENT


def test_where_no_hash_is_published_that_of_the_first_download_counts(server, release):
    release()
    path = locate(NAME)
    assert json.loads(cached(NAME, "sha256.json").read_text()) == {"weights.bin": SHA256}
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ValueError, match=f"not {SHA256}, which was there first; delete it, and"):
        locate(NAME)
    path.unlink()
    server.files[f"/{NAME}/weights.bin"] = b"another file"
    todo = f"came with SHA-256 .*, not {SHA256}.* then delete {cached(NAME)}$"
    with pytest.raises(ValueError, match=todo):
        locate(NAME)
    shutil.rmtree(cached(NAME))  # as told
    assert locate(NAME).read_bytes() == b"another file"


def test_damage_in_the_cache_is_noticed(server, release):
    release(sha256=SHA256)
    locate(NAME).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"weights.bin has SHA-256 .*, not {SHA256}, which was p"):
        find_weights_file(NAME)


def test_offline_one_line_says_what_to_fetch_and_where_to_put_it(server, release):
    name = release()
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError) as error:
        locate(name)
    target = cached(name, "weights.bin")
    message = str(error.value)
    assert f"fetch {server.url}/{name}/weights.bin and put it at {target}" in message
    assert "\n" not in message
    target.write_bytes(CONTENT)  # as told
    assert locate(name) == target
    assert json.loads(cached(name, "sha256.json").read_text()) == {"weights.bin": SHA256}


def test_a_login_page_is_not_kept_as_weights(server, release):
    release()
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="a web page comes instead"):
        locate(NAME)
    assert not cached(NAME, "weights.bin").exists()
    server.kind = "application/octet-stream"
    assert locate(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETDOWN])
def test_a_network_that_goes_away_is_not_the_disks_fault(server, release, monkeypatch, number):
    release()
    read = http.client.HTTPResponse.read

    def first_fails(answer, *given):
        monkeypatch.setattr(http.client.HTTPResponse, "read", read)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(http.client.HTTPResponse, "read", first_fails)
    assert locate(NAME).read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize("error", [OSError(errno.EHOSTUNREACH, "No route"), ssl.SSLError("ended")])
def test_an_answer_that_never_comes_is_not_the_disks_fault(server, release, monkeypatch, error):
    release()
    begin = http.client.HTTPResponse.begin

    def first_fails(answer):
        monkeypatch.setattr(http.client.HTTPResponse, "begin", begin)
        raise error

    monkeypatch.setattr(http.client.HTTPResponse, "begin", first_fails)
    assert locate(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("suffix", [".safetensors", ".flax", ".pth.tar"])
def test_what_cannot_be_read_is_to_be_deleted(release, suffix):
    release(contents={f"weights{suffix}": b"<p>Please log in</p>"})
    model = create_model("nest_tiny_s196_224", num_classes=10)
    with pytest.raises(ValueError, match=f"if that is not what .* delete {cached(NAME)}, and it"):
        load_variables(NAME, model, image_size=224)


def test_a_file_that_is_gone(server, release):
    release()
    server.files.clear()
    with pytest.raises(ValueError, match="cannot be downloaded .the server answers 404, Not Found"):
        locate(NAME)
    assert len(server.asked) == 1


def test_a_cache_that_is_read_only_suffices_where_all_is_there(server, release, monkeypatch):
    release()
    locate(NAME)
    cached(NAME, "sha256.json").unlink()

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("zoo.released.locate.write_text", refused)  # root may write anywhere
    assert locate(NAME).read_bytes() == CONTENT


def test_two_processes_at_once_download_once(server, release):
    release()
    script = f"""
import sys
from zoo.released import table, locate
file = table.File({f"{server.url}/{NAME}/weights.bin"!r}, "weights.bin")
table.RELEASED[{NAME!r}] = table.Released("nest_tiny_s196_224", (file,), "?", "?")
sys.stdin.readline()
print(locate.locate({NAME!r}))
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate()[0].strip() for process in started]
    assert printed == [str(cached(NAME, "weights.bin"))] * 3
    assert len(server.asked) == 1


# A folder of files, as the official NesT has it, and weights that are loaded.

OFFICIAL = FIXTURES / "nest_official_mha"


@pytest.fixture
def official(release, server):
    files = {name: (OFFICIAL / name).read_bytes() for name in ("checkpoint", "ckpt-2.flax")}
    name = "nest_tiny_s196_224.folder"
    release(name, files)
    release(
        name,
        {},
        files=tuple(
            File(f"{server.url}/{name}/{file}", file) for file in ("checkpoint", f"{MARK}.flax")
        ),
        is_folder=True,
    )
    return name


def test_the_file_that_another_names_comes_too(official, server):
    folder = locate(official)
    assert folder == cached(official) and (folder / "ckpt-2.flax").is_file()
    assert find_weights_file(official) == folder / "ckpt-2.flax"
    assert [path for path, _ in server.asked] == [
        f"/{official}/checkpoint",
        f"/{official}/ckpt-2.flax",
    ]


def test_a_folder_offline(official, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError) as error:
        locate(official)
    assert f"{official}/checkpoint and put it at {cached(official, 'checkpoint')}" in str(
        error.value
    )
    assert "ckpt-N.flax beside it" in str(error.value)
    shutil.copytree(OFFICIAL, cached(official), dirs_exist_ok=True)
    assert locate(official) == cached(official)


def test_a_name_is_found_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="of the released .* nest_tiny_s196_224.timm is"):
        find_weights_file("nest_tiny_s196_224.tim")


def test_a_path_of_the_same_name(server, release, tmp_path, monkeypatch):
    release()
    monkeypatch.chdir(tmp_path)
    Path(NAME).write_bytes(b"mine")
    assert find_weights_file(f"./{NAME}") == tmp_path / NAME
    assert not server.asked


def test_every_name_is_that_of_a_model_and_leads_to_a_file_that_can_be_read():
    for name, released in RELEASED.items():
        assert released.model in MODELS and name.startswith(f"{released.model}.")
        create_model(released.model, num_classes=1000, **dict(released.fields))
        for file in released.files:
            assert file.url.startswith("https://")
            assert MARK in file.name or file.url.endswith(file.name) or "huggingface" in file.url
            assert file.name == "checkpoint" or Path(file.name).suffix in READERS
            assert file.sha256 is None or set(file.sha256) <= set("0123456789abcdef")
        assert len(released.files) == 1 or released.is_folder
