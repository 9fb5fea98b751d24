# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from ansible_collections.wsfleet.websockets.plugins.module_utils import bundle
from ansible_collections.wsfleet.websockets.plugins.module_utils.bundle import Cache, list_files
from ansible_collections.wsfleet.websockets.plugins.module_utils.lock import Target
from ansible_collections.wsfleet.websockets.plugins.module_utils.step import StepError

BOOKWORM = Target("3.11.2-x86_64-2.36")
TRIXIE = Target("3.13.5-x86_64-2.41")
LOCKED = "websockets==17.4 --hash=sha256:aa\n"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder with wheels, which pip takes instead of an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


@pytest.fixture
def cache(tmp_path: Path, index: Path) -> Cache:
    return Cache(tmp_path / "cache", ["--no-index", "--find-links", str(index)])


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A folder with an app that is no package."""
    folder = tmp_path / "chat"
    folder.mkdir()
    (folder / "server.py").write_text("print('hello')\n")
    return folder


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """A stand-in for the bundled runner that needs no build."""
    folder = tmp_path / "runner"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "wsfleet"\nversion = "0.1.0"\n')
    (folder / "requirements.txt").write_text(LOCKED + "uvloop==0.23.0 --hash=sha256:bb\n")
    return folder


def resolve(cache: Cache, source: str | Path, **given: Any) -> Any:
    """Return the snapshot of ``source`` with the defaults of the module."""
    options = {"version": "", "requirements": "", "runner": None, "base": [Path("/")]}
    with cache.locked():
        return cache.resolve(str(source), **options | given)


def make_bundle(cache: Cache, snapshot: Any, target: Target = BOOKWORM, wheelhouse: bool = True) -> Path:
    with cache.locked():
        path: Path = cache.bundle(snapshot, target, wheelhouse)
    return path


def make_wheel(folder: Path, name: str, *needs: str) -> str:
    """Make a wheel and return its line in a lock."""
    distribution, version = name.split("-")[:2]
    information = f"{distribution}-{version}.dist-info"
    with ZipFile(folder / name, "w") as archive:
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        lines += [f"Requires-Dist: {need}" for need in needs]
        archive.writestr(f"{information}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{information}/RECORD", "")
    return f"{distribution}=={version} --hash=sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n"


def unpacked(path: Path) -> dict[str, str]:
    """Return the files of a bundle; wheels are ''."""
    with tarfile.open(path) as archive:
        return {
            member.name: "" if member.name.endswith(".whl") else archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class TestId:
    def test_it_begins_with_dev_where_no_version_is_known(self, cache: Cache, chat: Path) -> None:
        assert resolve(cache, chat).id.startswith("dev-")
        assert len(resolve(cache, chat).id) == len("dev-") + 12

    def test_it_begins_with_the_projects_version_or_the_one_given(self, cache: Cache, chat: Path) -> None:
        (chat / "pyproject.toml").write_text('[project]\nname = "chat"\nversion = "1.2"\n')
        assert resolve(cache, chat).id.startswith("1.2-")
        assert resolve(cache, chat, version="feature/x y").id.startswith("feature-x-y-")

    def test_it_is_the_same_elsewhere_and_later(self, cache: Cache, chat: Path, tmp_path: Path) -> None:
        first = resolve(cache, chat).id
        moved = chat.rename(tmp_path / "moved")
        os.utime(moved / "server.py", (0, 0))
        (moved / "__pycache__").mkdir()
        (moved / "__pycache__" / "server.pyc").write_text("x")
        assert resolve(Cache(tmp_path / "other"), moved).id == first

    @pytest.mark.parametrize(
        "change",
        [
            lambda chat: (chat / "server.py").write_text("print('bye')\n"),
            lambda chat: (chat / "server.py").chmod(0o755),
            lambda chat: (chat / "server.py").rename(chat / "main.py"),
            lambda chat: (chat / "requirements.txt").write_text(LOCKED),
            lambda chat: (chat / "link").symlink_to("server.py"),
        ],
    )
    def test_it_changes_with_what_is_installed(
        self, cache: Cache, chat: Path, change: Callable[[Path], object]
    ) -> None:
        first = resolve(cache, chat).id
        change(chat)
        assert resolve(cache, chat).id != first

    def test_it_does_not_change_with_comments_in_the_lock(
        self, cache: Cache, chat: Path, tmp_path: Path
    ) -> None:
        lock = tmp_path / "lock.txt"
        lock.write_text(LOCKED)
        first = resolve(cache, chat, requirements=str(lock)).id
        lock.write_text(f"# again\n{LOCKED}    # via -r requirements.in\n")
        assert resolve(cache, chat, requirements=str(lock)).id == first

    def test_it_changes_with_the_lock_beside_the_app(self, cache: Cache, chat: Path, tmp_path: Path) -> None:
        lock = tmp_path / "lock.txt"
        lock.write_text(LOCKED)
        first = resolve(cache, chat, requirements=str(lock)).id
        lock.write_text(LOCKED.replace("17.4", "17.5"))
        assert resolve(cache, chat, requirements=str(lock)).id != first

    def test_it_changes_with_the_runner(self, cache: Cache, chat: Path, runner: Path) -> None:
        first = resolve(cache, chat, runner=runner).id
        assert resolve(cache, chat).id != first
        (runner / "server.py").write_text("")
        assert resolve(cache, chat, runner=runner).id != first


class TestFolder:
    def test_what_a_release_does_not_need_is_left_out(self, chat: Path) -> None:
        for name in (
            ".git/config",
            ".env",
            "venv/bin/x",
            "mine/pyvenv.cfg",
            "chat.egg-info/x",
            "a/__pycache__/b.pyc",
        ):
            (chat / name).parent.mkdir(parents=True, exist_ok=True)
            (chat / name).write_text("")
        (chat / "a" / "b.py").write_text("")
        assert list_files(chat) == [chat / "a" / "b.py", chat / "server.py"]

    def test_links_stay_links_and_may_not_lead_out(self, cache: Cache, chat: Path) -> None:
        (chat / "main.py").symlink_to("server.py")
        assert (resolve(cache, chat).path / "app" / "main.py").is_symlink()
        (chat / "passwords").symlink_to("../secret")
        with pytest.raises(
            StepError, match=r"has the link .*/passwords to \.\./secret, which is outside of it"
        ):
            resolve(cache, chat)
        (chat / "passwords").unlink()
        (chat / "here").symlink_to(chat / "server.py")  # isn't there on a host
        with pytest.raises(StepError, match=r"has the link .*/here to /.*, which is outside of it"):
            resolve(cache, chat)

    def test_a_relative_path_is_looked_up_in_the_base_folders(
        self, cache: Cache, chat: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(chat.parent))
        assert resolve(cache, "~/chat").id == resolve(cache, chat).id
        assert resolve(cache, "./chat", base=[Path("/nowhere"), chat.parent]).id == resolve(cache, chat).id

    def test_one_that_does_not_exist_is_named(self, cache: Cache) -> None:
        with pytest.raises(
            StepError, match=r"ws_app_source is './chta', which doesn't exist on the controller"
        ):
            resolve(cache, "./chta")

    def test_a_file_is_no_folder_and_a_folder_no_lock(self, cache: Cache, chat: Path) -> None:
        with pytest.raises(StepError, match=r"ws_app_source is '.*/server\.py', which isn't a folder"):
            resolve(cache, chat / "server.py")
        with pytest.raises(StepError, match=r"ws_app_requirements .*/chat isn't a file"):
            resolve(cache, chat, requirements=str(chat))

    def test_its_lock_is_requirements_txt_unless_another_is_given(self, cache: Cache, chat: Path) -> None:
        (chat / "requirements.txt").write_text("httpx\n")
        (chat / "prod.txt").write_text(LOCKED)
        with pytest.raises(
            StepError, match=r"requirements\.txt of ws_app_source .* has 'httpx'; every package"
        ):
            resolve(cache, chat)
        assert (
            "websockets==17.4"
            in (resolve(cache, chat, requirements="prod.txt").path / "lock.txt").read_text()
        )

    def test_settings_of_tools_make_no_package(self, cache: Cache, chat: Path) -> None:
        (chat / "pyproject.toml").write_text("[tool.ruff]\n")
        assert not list((resolve(cache, chat).path / "wheels").iterdir())

    def test_a_package_is_built_once_and_outside_of_it(
        self, cache: Cache, chat: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (chat / "pyproject.toml").write_text("[build-system]\n")
        built = []

        def build(step: str, command: list[str], environment: dict[str, str]) -> str:
            built.append(step)
            folder = Path(command[command.index("--wheel-dir") + 1])
            folder.mkdir()
            make_wheel(folder, "chat-1.2-py3-none-any.whl")
            assert (Path(command[-1]) / "server.py").exists()
            assert Path(command[-1]) != chat
            assert environment["SOURCE_DATE_EPOCH"]  # the same wheel from the same files
            return ""

        monkeypatch.setattr(bundle, "run", build)
        first = resolve(cache, chat)
        resolve(cache, chat)
        resolve(cache, chat, version="again")
        assert len(built) == 1
        assert [wheel.name for wheel in (first.path / "wheels").iterdir()] == ["chat-1.2-py3-none-any.whl"]


class TestGit:
    @pytest.fixture
    def repository(self, chat: Path) -> Path:
        git(chat, "init", "--quiet", "--initial-branch=trunk")
        git(chat, "add", ".")
        git(chat, "commit", "--quiet", "--message=one")
        git(chat, "tag", "v1.2")
        (chat / "server.py").write_text("print('new')\n")
        git(chat, "commit", "--quiet", "--all", "--message=two")
        return chat

    def test_tag_branch_and_commit_are_found(self, cache: Cache, repository: Path) -> None:
        url = f"git+file://{repository}"
        tag = resolve(cache, url, version="v1.2")
        assert tag.id.startswith("v1.2-")
        assert (tag.path / "app" / "server.py").read_text() == "print('hello')\n"
        assert not (tag.path / "app" / ".git").exists()
        newest = {
            resolve(cache, url, version=version).id[-12:]
            for version in ("", "trunk", git(repository, "rev-parse", "HEAD"))
        }
        assert len(newest) == 1

    def test_the_source_says_the_commit(self, cache: Cache, repository: Path) -> None:
        commit = git(repository, "rev-parse", "v1.2")
        assert (
            resolve(cache, f"git+file://{repository}", version="v1.2")
            .facts["source"]
            .endswith(f"/chat@{commit}")
        )

    def test_a_branch_that_moved_is_a_new_release(self, cache: Cache, repository: Path) -> None:
        first = resolve(cache, f"git+file://{repository}").id
        git(repository, "commit", "--quiet", "--allow-empty", "--message=three")
        assert resolve(cache, f"git+file://{repository}").id != first

    def test_a_branch_that_is_gone_is_not_found(self, cache: Cache, repository: Path) -> None:
        git(repository, "branch", "old")
        resolve(cache, f"git+file://{repository}", version="old")
        git(repository, "branch", "--delete", "--force", "old")
        with pytest.raises(StepError, match="finding ws_app_version 'old'"):
            resolve(cache, f"git+file://{repository}", version="old")

    def test_submodules_come_along_from_beside_the_repository(
        self, cache: Cache, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "file")
        library = repository.parent / "library"
        git(repository, "clone", "--quiet", ".", str(library))
        git(repository, "remote", "add", "origin", f"file://{repository}")
        git(repository, "submodule", "--quiet", "add", "../library")
        git(repository, "commit", "--quiet", "--message=three")
        snapshot = resolve(cache, f"git+file://{repository}")
        assert (snapshot.path / "app/library/server.py").exists()

    def test_a_password_is_not_shown(self, cache: Cache, repository: Path) -> None:
        with pytest.raises(StepError) as failure:
            resolve(cache, "git+https://me:secret@127.0.0.1:1/chat.git")
        assert "secret" not in str(failure.value)
        snapshot = resolve(cache, f"git+file://me:secret@{repository}")
        assert snapshot.facts["source"].startswith(f"git+file://{repository}@")

    def test_what_is_not_there_is_named(self, cache: Cache, repository: Path) -> None:
        with pytest.raises(
            StepError, match=r"finding ws_app_version 'v9' of ws_app_source git\+file:.* failed"
        ):
            resolve(cache, f"git+file://{repository}", version="v9")
        with pytest.raises(StepError, match=r"fetching .* of ws_app_source git\+file:///nowhere failed"):
            resolve(cache, "git+file:///nowhere")


class TestWheelAndRequirement:
    def test_a_wheel_is_taken_as_it_is(self, cache: Cache, tmp_path: Path) -> None:
        make_wheel(tmp_path, "chat-1.2-py3-none-any.whl")
        snapshot = resolve(cache, "chat-1.2-py3-none-any.whl", base=[tmp_path])
        assert snapshot.id.startswith("1.2-")
        assert [wheel.name for wheel in (snapshot.path / "wheels").iterdir()] == ["chat-1.2-py3-none-any.whl"]
        assert not (snapshot.path / "app").exists()

    def test_a_file_that_is_not_named_like_a_wheel_is_refused(self, cache: Cache, tmp_path: Path) -> None:
        (tmp_path / "chat.whl").write_text("")
        with pytest.raises(StepError, match=r"ws_app_source is 'chat\.whl', which isn't the name of a wheel"):
            resolve(cache, "chat.whl", base=[tmp_path])

    def test_a_requirement_must_be_in_the_lock(self, cache: Cache, tmp_path: Path) -> None:
        (tmp_path / "lock.txt").write_text(LOCKED)
        lock = {"requirements": "lock.txt", "base": [tmp_path]}
        assert resolve(cache, "websockets", **lock).id.startswith("17.4-")
        with pytest.raises(
            StepError, match=r"is 'websockets==17\.0', and the lock ws_app_requirements has 17\.4"
        ):
            resolve(cache, "websockets==17.0", **lock)
        with pytest.raises(
            StepError, match=r"the requirement 'chat', which isn't in the lock .*written \./chat"
        ):
            resolve(cache, "chat", **lock)

    def test_what_is_neither_is_refused(self, cache: Cache) -> None:
        with pytest.raises(
            StepError, match=r"ws_app_source is 'a b'; it must be a folder such as \./chat, git\+URL"
        ):
            resolve(cache, "a b")


class TestRunner:
    def test_it_brings_what_the_lock_does_not_have(self, cache: Cache, chat: Path, runner: Path) -> None:
        (chat / "requirements.txt").write_text("websockets==17.0 --hash=sha256:cc\n")
        lock = (resolve(cache, chat, runner=runner).path / "lock.txt").read_text()
        assert "uvloop==0.23.0" in lock
        assert "websockets==17.0" in lock
        assert "websockets==17.4" not in lock

    def test_it_is_not_added_to_a_lock_that_has_it(self, cache: Cache, chat: Path, runner: Path) -> None:
        (chat / "requirements.txt").write_text("wsfleet==0.2 --hash=sha256:cc\n")
        assert "uvloop" not in (resolve(cache, chat, runner=runner).path / "lock.txt").read_text()


class TestBundle:
    def test_it_has_files_wheels_and_the_lock_of_just_these(
        self, cache: Cache, chat: Path, index: Path
    ) -> None:
        dependency = make_wheel(index, "dep-1.0-py3-none-any.whl")
        old = make_wheel(index, "old-1.0-py3-none-any.whl").replace(
            " --hash", " ; python_version < '3.12' --hash"
        )
        (chat / "requirements.txt").write_text(
            dependency.replace("\n", " --hash=sha256:" + "0" * 64 + "\n") + old
        )
        snapshot = resolve(cache, chat)
        files = unpacked(make_bundle(cache, snapshot))
        assert set(files) == {
            "bundle.json",
            "app/server.py",
            "app/requirements.txt",
            "requirements.txt",
            "wheels/dep-1.0-py3-none-any.whl",
            "wheels/old-1.0-py3-none-any.whl",
        }
        assert "0" * 64 not in files["requirements.txt"]
        assert "old" not in unpacked(make_bundle(cache, snapshot, TRIXIE))["requirements.txt"]

    def test_a_second_run_needs_no_index(self, cache: Cache, chat: Path, index: Path) -> None:
        (chat / "requirements.txt").write_text(make_wheel(index, "dep-1.0-py3-none-any.whl"))
        first = make_bundle(cache, resolve(cache, chat))
        (index / "dep-1.0-py3-none-any.whl").unlink()
        assert make_bundle(cache, resolve(cache, chat)) == first

    def test_without_wheelhouse_the_host_gets_all_hashes_and_no_dependency(
        self, cache: Cache, chat: Path
    ) -> None:
        (chat / "requirements.txt").write_text(LOCKED)
        files = unpacked(make_bundle(cache, resolve(cache, chat), wheelhouse=False))
        assert files["requirements.txt"] == "websockets==17.4 \\\n    --hash=sha256:aa\n"
        assert not [name for name in files if name.startswith("wheels/")]

    def test_a_wheel_that_no_host_of_the_kind_can_use_is_named(
        self, cache: Cache, chat: Path, index: Path
    ) -> None:
        (chat / "requirements.txt").write_text(
            make_wheel(index, "dep-1.0-cp313-cp313-manylinux_2_40_x86_64.whl")
        )
        snapshot = resolve(cache, chat)
        make_bundle(cache, snapshot, TRIXIE)
        with pytest.raises(
            StepError, match=r"fetching the wheels for Python 3\.11\.2 .* failed: .*dep==1\.0"
        ):
            make_bundle(cache, snapshot)

    def test_a_file_that_does_not_match_the_lock_is_refused(
        self, cache: Cache, chat: Path, index: Path
    ) -> None:
        make_wheel(index, "dep-1.0-py3-none-any.whl")
        (chat / "requirements.txt").write_text(f"dep==1.0 --hash=sha256:{'0' * 64}\n")
        with pytest.raises(StepError, match=r"fetching the wheels .* failed: .*(HASH|hash)"):
            make_bundle(cache, resolve(cache, chat))

    def test_a_package_that_is_no_wheel_is_not_taken(self, cache: Cache, chat: Path, index: Path) -> None:
        with tarfile.open(index / "dep-1.0.tar.gz", "w:gz") as archive:
            archive.add(chat, "dep-1.0")
        digest = hashlib.sha256((index / "dep-1.0.tar.gz").read_bytes()).hexdigest()
        (chat / "requirements.txt").write_text(f"dep==1.0 --hash=sha256:{digest}\n")
        with pytest.raises(StepError, match=r"fetching the wheels .* failed: .*No matching distribution"):
            make_bundle(cache, resolve(cache, chat))

    def test_everything_in_it_belongs_to_root_and_is_readable(
        self, cache: Cache, chat: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gettarinfo = tarfile.TarFile.gettarinfo

        def of_a_user(*arguments: Any, **options: Any) -> tarfile.TarInfo:
            member = gettarinfo(*arguments, **options)
            member.uid = member.gid = 1000
            return member

        monkeypatch.setattr(tarfile.TarFile, "gettarinfo", of_a_user)
        (chat / "server.py").chmod(0o640)
        with tarfile.open(make_bundle(cache, resolve(cache, chat))) as archive:
            assert {(member.uid, member.gid, member.mode) for member in archive} == {
                (0, 0, 0o644),
                (0, 0, 0o755),
            }

    def test_a_lock_that_lacks_something_is_refused(self, cache: Cache, chat: Path, index: Path) -> None:
        (chat / "requirements.txt").write_text(make_wheel(index, "dep-1.0-py3-none-any.whl", "other>=2"))
        with pytest.raises(StepError, match=r"lacks other>=2, which dep 1\.0 needs"):
            make_bundle(cache, resolve(cache, chat))
        assert not list(cache.path.glob("bundles/*/*.tar"))


class TestCache:
    def test_runs_at_the_same_time_agree(self, cache: Cache, chat: Path, index: Path) -> None:
        (chat / "requirements.txt").write_text(make_wheel(index, "dep-1.0-py3-none-any.whl"))
        with ThreadPoolExecutor() as pool:
            bundles = set(pool.map(lambda _: make_bundle(cache, resolve(cache, chat)), range(4)))
        assert len(bundles) == 1
        assert "wheels/dep-1.0-py3-none-any.whl" in unpacked(bundles.pop())

    def test_what_was_not_used_for_long_and_what_a_killed_run_left_is_removed(
        self, cache: Cache, chat: Path
    ) -> None:
        old = resolve(cache, chat).path
        long_ago = time.time() - 91 * 86400
        os.utime(old, (long_ago, long_ago))
        (cache.path / "tmp" / "killed").mkdir()
        (chat / "server.py").write_text("print('bye')\n")
        new = resolve(cache, chat).path
        assert list((cache.path / "bundles").iterdir()) == [new]
        assert not list((cache.path / "tmp").iterdir())

    def test_what_was_used_lately_stays(
        self, cache: Cache, chat: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def build(_step: str, command: list[str], _environment: object) -> str:
            folder = Path(command[command.index("--wheel-dir") + 1])
            folder.mkdir()
            make_wheel(folder, "chat-1.2-py3-none-any.whl")
            return ""

        monkeypatch.setattr(bundle, "run", build)
        (chat / "pyproject.toml").write_text("[build-system]\n")

        def grow_old(days: int) -> None:
            for path in cache.path.glob("[bw]*/*"):
                os.utime(path, (time.time() - days * 86400,) * 2)

        first = resolve(cache, chat)
        grow_old(89)
        resolve(cache, chat)
        assert first.path.stat().st_mtime > time.time() - 60
        grow_old(89)
        resolve(cache, chat, version="another")
        assert first.path.exists()
        (wheel,) = (cache.path / "wheels").iterdir()
        assert wheel.stat().st_mtime > time.time() - 60

    def test_a_snapshot_that_is_gone_is_named(self, cache: Cache) -> None:
        with pytest.raises(StepError, match=r"there is no release 'dev-0' in "):
            cache.snapshot("dev-0")

    def test_a_controller_without_pip_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle.importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(StepError, match=r"the controller's Python .* has no pip"):
            bundle.pip()
