"""Bundles arrive whole and unchanged, from a folder, a zip or the Hub, or not at all."""

import json
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile, ZipInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner import Bundle, BundleError, Captioner, sharing
from captioner.bundle import seal
from captioner.cli import main
from captioner.config import ModelConfig
from captioner.sharing import HubError, from_hub, load, push_to_hub, save
from captioner.vocabulary import MARKS, Vocabulary
from tests import fake_hub


def make(folder: Path) -> Path:
    """A sealed bundle whose graphs are not graphs: nothing here runs them."""
    folder.mkdir()
    config = {
        "format_version": 1,
        "name": "paper",
        "model": ModelConfig().to_dict(),
        "grid": [7, 7, 1280],
        "search": {},
    }
    (folder / "config.json").write_text(json.dumps(config))
    Vocabulary([*MARKS, "straw", "hat"]).save(folder / "vocabulary.json")
    (folder / "README.md").write_text("# Paper\n\nA model card.\n")
    (folder / "encoder.onnx").write_bytes(b"encoder" * 3000)
    (folder / "captioner.onnx").write_bytes(b"captioner")
    seal(folder)
    (folder / "notes.txt").write_text("not sealed: stays at home")
    return folder


@pytest.fixture
def bundle(tmp_path) -> Path:
    return make(tmp_path / "paper")


@pytest.fixture
def zipped(bundle, tmp_path) -> Path:
    return save(bundle, tmp_path / "paper.zip")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where zips are unpacked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "captioner"


SEALED = {"README.md", "captioner.onnx", "config.json", "encoder.onnx", "manifest.json", "vocabulary.json"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(path: Path, cache: Path) -> str:
    """What load says of it; it leaves nothing behind."""
    with pytest.raises(BundleError) as e:
        load(path)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)
    assert not cache.exists() or not list(cache.iterdir())
    return str(e.value)


# Folders and zips


def test_a_folder_goes_to_a_folder(bundle, tmp_path):
    copy = save(bundle, tmp_path / "new" / "copy")
    assert contents(copy) == {name: (bundle / name).read_bytes() for name in SEALED}
    assert Bundle.open(copy).version == Bundle.open(bundle).version
    assert stat.S_IMODE(copy.stat().st_mode) == stat.S_IMODE(bundle.stat().st_mode)


def test_a_folder_goes_to_a_zip_and_back(bundle, zipped, cache, tmp_path):
    opened = load(zipped)
    assert opened.version == Bundle.open(bundle).version
    assert contents(opened.folder) == {name: (bundle / name).read_bytes() for name in SEALED}
    assert save(zipped, tmp_path / "again.zip").read_bytes() == zipped.read_bytes()
    assert Bundle.open(save(opened, tmp_path / "again")).version == opened.version


def test_an_empty_folder_is_filled(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    assert load(save(bundle, tmp_path / "empty")).name == "paper"


def test_the_same_bundle_makes_the_same_zip(bundle, zipped, tmp_path):
    again = shutil.copytree(bundle, tmp_path / "copy")
    for n, name in enumerate(sorted(SEALED, reverse=True)):
        path = again / name
        path.write_bytes(path.read_bytes())  # other times
        path.chmod(0o600 + n % 2 * 0o44)
    assert save(again, tmp_path / "again.zip").read_bytes() == zipped.read_bytes()
    with ZipFile(zipped) as archive:
        assert archive.namelist() == sorted(SEALED)
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_what_is_there_is_not_overwritten(bundle, zipped, tmp_path):
    before = zipped.read_bytes(), contents(bundle)
    for target in (zipped, bundle):
        with pytest.raises(ValueError, match="is there already"):
            save(bundle, target)
    assert (zipped.read_bytes(), contents(bundle)) == before
    with pytest.raises(ValueError, match="cannot be written"):
        save(bundle, zipped / "inside")  # a file is no folder


def test_a_tampered_folder_is_not_saved(bundle, tmp_path):
    (bundle / "encoder.onnx").write_bytes(b"other")
    for target in ("copy", "copy.zip"):
        with pytest.raises(BundleError, match=r"encoder\.onnx was changed after the bundle was sealed"):
            save(bundle, tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["paper"]


def test_what_changes_after_it_was_opened_is_not_saved(bundle, tmp_path):
    opened = Bundle.open(bundle)
    (bundle / "encoder.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"encoder\.onnx was changed"):
        save(opened, tmp_path / "copy")


def test_a_zip_is_unpacked_once(zipped, cache, monkeypatch):
    first = load(zipped)
    assert first.folder.parent == cache
    shutil.copy(zipped, zipped.with_name("renamed.zip"))
    monkeypatch.setattr(sharing, "_unpack", None)  # would fail
    assert load(zipped.with_name("renamed.zip")).folder == first.folder
    assert load(zipped, cache=str(cache)).folder == first.folder


def test_a_folder_in_the_cache_that_was_changed_is_not_used(zipped, cache):
    (load(zipped).folder / "encoder.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"encoder\.onnx was changed after the bundle was sealed"):
        load(zipped)


def test_two_that_unpack_at_once_do_not_disturb_each_other(zipped, cache, monkeypatch):
    extract = sharing._extract

    def overtaken(*given):
        monkeypatch.setattr(sharing, "_extract", extract)
        assert load(zipped).name == "paper"
        extract(*given)

    monkeypatch.setattr(sharing, "_extract", overtaken)
    assert load(zipped).name == "paper"
    assert len(list(cache.iterdir())) == 1


def test_processes_that_unpack_at_once(zipped, cache, tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom captioner.sharing import load\n"
        "print(flush=True)\nwhile not Path(sys.argv[2]).exists(): time.sleep(0.001)\nprint(load(sys.argv[1]).version)"
    )
    command = [sys.executable, "-c", code, str(zipped), str(tmp_path / "go")]
    root = Path(__file__).parent.parent
    started = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    (tmp_path / "go").touch()
    found = {process.communicate(timeout=60)[0].strip() for process in started}
    assert found == {load(zipped).version}
    assert len(list(cache.iterdir())) == 1


def test_unpacking_that_fails_leaves_nothing_and_may_be_repeated(zipped, cache, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert "cannot be unpacked" in (said := refusal(zipped, cache))
        assert "No space left on device" in said
    assert load(zipped).name == "paper"


def test_a_zip_that_is_none(tmp_path, cache):
    assert "No such file" in refusal(tmp_path / "nowhere.zip", cache)
    (tmp_path / "text.zip").write_text("no zip")
    assert "is no zip that can be read" in refusal(tmp_path / "text.zip", cache)


def test_a_zip_cut_short(zipped, cache):
    zipped.write_bytes(zipped.read_bytes()[:-100])
    assert "is no zip that can be read" in refusal(zipped, cache)


def rezip(zipped: Path, change, compression: int = ZIP_DEFLATED) -> Path:
    """The same zip after `change`, which gets a list of entries and their bytes and alters it."""
    with ZipFile(zipped) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    change(entries)
    with ZipFile(zipped, "w") as archive:
        for entry, content in entries:
            archive.writestr(entry, content, compression)
    return zipped


def put(name: str, content: bytes, mode: int = 0):
    """Replace what has that name, or add it."""

    def change(entries):
        entries[:] = [one for one in entries if one[0].filename != name]
        entry = ZipInfo(name)
        entry.external_attr = mode << 16
        entries.append((entry, content))

    return change


def test_a_zip_of_another_program_is_read(zipped, cache):
    """Deflated, and without rights."""

    def plain(entries):
        entries[:] = [(ZipInfo(entry.filename), content) for entry, content in reversed(entries)]

    assert load(rezip(zipped, plain)).name == "paper"


def test_a_tampered_file_in_a_zip_is_named(zipped, cache):
    rezip(zipped, put("encoder.onnx", b"other"))
    assert "encoder.onnx was changed after the bundle was sealed" in refusal(zipped, cache)


def test_a_file_that_is_missing_in_a_zip_is_named(zipped, cache):
    rezip(zipped, lambda entries: entries.remove(next(one for one in entries if one[0].filename == "encoder.onnx")))
    assert "encoder.onnx is missing" in refusal(zipped, cache)


def test_a_zip_needs_a_manifest_at_its_top(zipped, cache):
    def deeper(entries):
        entries[:] = [(ZipInfo(f"paper/{entry.filename}"), content) for entry, content in entries]

    assert "manifest.json is not at its top" in refusal(rezip(zipped, deeper), cache)


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "..", "a/../../evil", "C:\\evil", "..\\evil", "sub/", ".bashrc", "extra.onnx"]
)
def test_a_zip_holds_only_what_its_manifest_names(zipped, cache, name):
    assert "which its manifest.json does not name" in refusal(rezip(zipped, put(name, b"evil")), cache)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "..\\evil", ".."])
def test_a_zip_whose_manifest_names_the_outside(zipped, cache, name):
    manifest = {"files": {name: "0" * 64}}
    rezip(zipped, put("manifest.json", json.dumps(manifest).encode()))
    assert "names a file outside the folder" in refusal(rezip(zipped, put(name, b"evil")), cache)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_in_a_zip_is_refused(zipped, cache, kind):
    rezip(zipped, put("encoder.onnx", b"/etc/passwd", kind | 0o777))
    assert "'encoder.onnx', which is a link or folder and no file" in refusal(zipped, cache)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_twice_in_a_zip_is_refused(zipped, cache):
    rezip(zipped, lambda entries: entries.append((ZipInfo("encoder.onnx"), b"other")))
    assert "holds 'encoder.onnx' 2 times" in refusal(zipped, cache)


def test_a_bomb_is_refused_by_what_it_says(zipped, cache, monkeypatch):
    monkeypatch.setattr(sharing, "MAX_BYTES", 10_000_000)
    rezip(zipped, put("encoder.onnx", bytes(10_000_001)))
    assert zipped.stat().st_size < 100_000
    assert "must have at most 10000000 bytes together, got 1000" in refusal(zipped, cache)


def test_a_bomb_that_says_less_than_it_holds_is_not_believed(zipped, cache, monkeypatch):
    written = []
    copy = shutil.copyfileobj

    def watched(source, target):
        copy(source, target)
        written.append(target.tell())

    rezip(zipped, put("captioner.onnx", bytes(10_000_000)))
    content = bytearray(zipped.read_bytes())
    with ZipFile(zipped) as archive:
        start = archive.start_dir
    entry = content.rindex(b"captioner.onnx")  # the entry of the directory, 46 bytes before its name
    assert entry > start
    struct.pack_into("<I", content, entry - 46 + 24, 9)
    zipped.write_bytes(content)
    monkeypatch.setattr(shutil, "copyfileobj", watched)
    assert "is no zip that can be read" in refusal(zipped, cache)
    assert max(written, default=0) < 100_000


def test_too_many_files_are_refused(zipped, bundle, cache, monkeypatch):
    monkeypatch.setattr(sharing, "MAX_FILES", 5)
    assert "there must be at most 5 files, got 6" in refusal(zipped, cache)
    with pytest.raises(BundleError, match="at most 5 files, got 6"):
        save(bundle, zipped.with_name("another.zip"))


def test_a_manifest_that_is_too_long_is_refused(zipped, cache):
    rezip(zipped, put("manifest.json", b" " * (sharing.MAX_MANIFEST_BYTES + 1)))
    assert "manifest.json must have at most 1048576 bytes, got 1048577" in refusal(zipped, cache)


def test_only_stored_and_deflated_are_read(zipped, cache):
    assert "is neither stored nor deflated" in refusal(rezip(zipped, lambda entries: None, ZIP_BZIP2), cache)


def test_an_encrypted_zip_is_refused(zipped, cache):
    content = bytearray(zipped.read_bytes())
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = content.find(signature)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(signature, place + 1)
    zipped.write_bytes(content)
    assert "encrypted" in refusal(zipped, cache)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[bytes, str]:
    """A zip and its version."""
    folder = tmp_path_factory.mktemp("sound")
    bundle = make(folder / "paper")
    return save(bundle, folder / "paper.zip").read_bytes(), Bundle.open(bundle).version


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 1_000_000), byte=st.integers(1, 255), cut=st.booleans(), directory=st.booleans())
def test_a_zip_with_any_byte_changed_is_the_same_bundle_or_none(sound, place, byte, cut, directory):
    content, version = bytearray(sound[0]), sound[1]
    first = content.index(b"PK\x01\x02") if directory else 0
    place = first + place % (len(content) - first)
    content[place] ^= byte
    if cut:
        del content[place:]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "changed.zip"
        path.write_bytes(content)
        try:
            found = load(path, Path(folder) / "cache").version
        except BundleError:
            return
        assert found == version


# The Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on this machine, with the real library logged in."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with fake_hub.running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # what HF_ENDPOINT sets at the start
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another protocol, of the real Hub alone
        monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
        yield hub


def test_a_bundle_goes_to_the_hub_and_back(bundle, hub):
    commit = push_to_hub(bundle, "me/paper")
    files = hub.repositories["me/paper"].files(commit)
    assert set(files) == SEALED | {".gitattributes"}
    assert hub.large  # the encoder went through LFS
    opened = from_hub("me/paper")
    assert opened.version == Bundle.open(bundle).version
    assert set(contents(opened.folder)) == SEALED
    assert sorted(hub.downloads) == sorted(SEALED)


def test_nothing_else_of_a_repository_is_fetched(bundle, hub):
    push_to_hub(bundle, "me/paper")
    hub.repositories["me/paper"].commit({"pytorch_model.bin": b"pickle", "../evil": b"evil"})
    assert set(contents(from_hub("me/paper").folder)) == SEALED
    assert sorted(hub.downloads) == sorted(SEALED)


def test_a_second_fetch_downloads_nothing(bundle, hub):
    push_to_hub(bundle, "me/paper")
    first = from_hub("me/paper")
    hub.requests.clear()
    assert from_hub("me/paper").folder == first.folder
    assert hub.downloads == []


def test_a_cache_of_one_s_own(bundle, hub, tmp_path):
    push_to_hub(bundle, "me/paper")
    assert from_hub("me/paper", cache=tmp_path / "own").folder.is_relative_to(tmp_path / "own")
    assert not (tmp_path / "hub").exists()


def test_all_files_are_of_one_commit(bundle, hub, monkeypatch):
    """A push between the manifest and the rest changes nothing."""
    push_to_hub(bundle, "me/paper")
    names = sharing._names

    def pushed(folder):
        hub.repositories["me/paper"].commit({"encoder.onnx": b"newer"})
        return names(folder)

    monkeypatch.setattr(sharing, "_names", pushed)
    assert from_hub("me/paper").version == Bundle.open(bundle).version


def test_a_tampered_file_of_the_hub_is_named(bundle, hub):
    push_to_hub(bundle, "me/paper")
    hub.repositories["me/paper"].commit({"encoder.onnx": b"other"})
    with pytest.raises(BundleError, match=r"bundle me/paper: encoder\.onnx was changed after the bundle was sealed"):
        from_hub("me/paper")


def test_a_manifest_of_the_hub_cannot_point_outside(bundle, hub):
    manifest = json.dumps({"files": {"../../evil": "0" * 64}}).encode()
    hub.create("me/paper").commit({"manifest.json": manifest, "../../evil": b"evil"})
    with pytest.raises(BundleError, match="names a file outside the folder"):
        from_hub("me/paper")
    assert hub.downloads == ["manifest.json"]


def test_another_version_than_the_pinned_is_refused(bundle, hub):
    push_to_hub(bundle, "me/paper")
    whole = sharing.sha256(bundle)
    assert from_hub("me/paper", version=whole[:12]).version == whole[:12]
    assert from_hub("me/paper", version=whole).version == whole[:12]
    hub.requests.clear()
    for version in ("0" * 12, whole[:12] + "0" * 52, whole[:4], ""):
        with pytest.raises(BundleError, match=f"me/paper holds the version {whole[: len(version)]}.*, not {version}"):
            from_hub("me/paper", version=version)
    assert hub.downloads == []


def test_a_revision_is_a_branch_or_a_commit(bundle, hub):
    first = push_to_hub(bundle, "me/paper")
    old = Bundle.open(bundle).version
    (bundle / "README.md").write_text("# Another\n")
    seal(bundle)
    push_to_hub(Bundle.open(bundle), "me/paper", revision="next")
    push_to_hub(Bundle.open(bundle), "me/paper", revision="next")  # the branch is there already
    assert from_hub("me/paper").version == from_hub("me/paper", first).version == old
    assert from_hub("me/paper", "next").version == Bundle.open(bundle).version
    with pytest.raises(HubError, match=r"me/paper: .*[Rr]ev"):
        from_hub("me/paper", "nowhere")


def test_a_private_repository(bundle, hub, monkeypatch):
    push_to_hub(bundle, "me/paper", private=True)
    assert hub.repositories["me/paper"].private
    assert from_hub("me/paper", token=fake_hub.TOKEN).name == "paper"
    push_to_hub(bundle, "me/paper", private=True)  # still is


def test_what_is_to_be_private_is_not_pushed_to_a_public_repository(bundle, hub):
    before = hub.create("me/paper").files()
    with pytest.raises(HubError, match="me/paper: the repository is there already, and it is public"):
        push_to_hub(bundle, "me/paper", private=True)
    assert hub.repositories["me/paper"].files() == before
    assert not hub.large


def test_errors_of_the_hub_are_one_sentence(bundle, hub, monkeypatch):
    for asked in ("me/nowhere", "not a name", ""):
        with pytest.raises(HubError) as e:
            from_hub(asked)
        assert "\n" not in str(e.value)
        assert str(e.value).startswith(f"{asked}: ")
    hub.create("me/empty")
    with pytest.raises(HubError, match=r"me/empty: .*manifest\.json"):
        from_hub("me/empty")
    with pytest.raises(HubError, match=r"me/paper: .*401"):
        push_to_hub(bundle, "me/paper", token="hf_wrong")
    assert "me/paper" not in hub.repositories


def test_a_tampered_bundle_is_not_pushed(bundle, hub):
    (bundle / "encoder.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="was changed"):
        push_to_hub(bundle, "me/paper")
    assert hub.requests == []


def test_without_the_library_the_extra_is_named(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: from_hub("me/paper"), lambda: push_to_hub(bundle, "me/paper")):
        with pytest.raises(HubError, match=r"install captioner\[hub\]"):
            call()


def test_the_library_is_only_loaded_where_it_is_called():
    code = "import sys, captioner.cli; print('huggingface_hub' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "False"


def test_a_captioner_comes_from_a_zip_and_from_the_hub(tiny_bundle, hub, cache, tmp_path):
    version = Bundle.open(tiny_bundle).version
    assert Captioner.load(save(tiny_bundle, tmp_path / "tiny.zip"), threads=1).bundle.version == version
    push_to_hub(tiny_bundle, "me/tiny")
    captioner = Captioner.from_hub("me/tiny", version=version, precision="fp32", threads=1)
    assert (captioner.bundle.version, captioner.precision) == (version, "fp32")


# The command line


def test_commands_save_push_and_fetch(bundle, hub, cache, tmp_path, capsys):
    version = Bundle.open(bundle).version
    zipped = tmp_path / "paper.zip"
    assert main(["save", "--bundle", str(bundle), str(zipped)]) == 0
    assert capsys.readouterr().out == f"{zipped}: paper@{version}\n"
    assert main(["push", "me/paper", "--bundle", str(zipped), "--private"]) == 0
    assert hub.repositories["me/paper"].private
    said = capsys.readouterr().out.split("captioner ")[1].replace("TARGET", str(tmp_path / "got")).split()
    assert said[-1] == sharing.sha256(bundle)
    assert main(said) == 0  # the command that it names
    assert capsys.readouterr().out == f"{tmp_path / 'got'}: paper@{version}\n"
    assert Bundle.open(tmp_path / "got").version == version


def test_commands_complain_in_one_sentence(bundle, hub, tmp_path, monkeypatch, capsys):
    hub.create("me/empty")
    push_to_hub(bundle, "me/paper")
    for command, words in [
        (["save", "--bundle", str(bundle), str(bundle)], "is there already"),
        (["save", "--bundle", str(tmp_path / "no.zip"), str(tmp_path / "new")], "No such file"),
        (["push", "me/empty", "--bundle", str(bundle), "--private"], "it is public"),
        (["fetch", "me/nowhere", str(tmp_path / "new")], "me/nowhere: "),
        (["fetch", "me/paper", str(bundle)], "is there already"),
        (["fetch", "me/paper", str(tmp_path / "new"), "--version", "0" * 12], "not 000000000000"),
    ]:
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err.splitlines()[-1]
        assert not (tmp_path / "new").exists()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["fetch", "me/paper", str(tmp_path / "new")]) == 2
    assert "install captioner[hub]" in capsys.readouterr().err
