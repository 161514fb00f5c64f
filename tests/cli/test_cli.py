"""The command line: real files in, real files out, and errors in one line.

Commands run in this process, for an interpreter's start takes as long as all that most of them do; two run as a shell
would start them.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from typer.testing import CliRunner, Result

import normtree_kernels as nk
from normtree import cli
from normtree.cli import app
from normtree.engine import projector
from normtree.engine.kernels import ALL, warm_kernels
from normtree.engine.profile import leaf_bench
from normtree.engine.profile.machine_profile import MachineProfile
from normtree.engine.profile.measure import measure
from normtree.files.tensor_file import Opaque, TensorFile, read_file, write_file
from normtree.settings import Settings
from normtree.text.printable import printable

RNG = np.random.default_rng(3)


def run(*arguments: str | float | Path) -> Result:
    """Run a command; an exception that it does not turn into words is the test's."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def start(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the installed command in a process of its own."""
    command = [str(Path(sys.executable).with_name("normtree")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Commands that compile say so, and these are asked about other things."""
    warm_kernels()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tensors: dict[str, Any] = {
        "layer.weight": RNG.standard_normal((32, 16)).astype(np.float32),
        "layer.bias": RNG.standard_normal(32).astype(np.float32),
        "head.weight": RNG.standard_normal((8, 32)),
        "half": RNG.standard_normal((4, 4)).astype(ml_dtypes.bfloat16),
        "ids": np.arange(5),
    }
    path = tmp_path / "in.safetensors"
    write_file(path, TensorFile(tensors, {"format": "pt"}))
    return path


def test_it_projects_the_named_tensors_and_keeps_the_others(checkpoint: Path, tmp_path: Path) -> None:
    out, timing = tmp_path / "out.safetensors", tmp_path / "timing.json"
    done = run(
        "project", checkpoint, out, "--tensor", r".*\.weight|half", "--radius", 3, "--axes", "1,0", "--timing", timing
    )
    assert done.exit_code == 0, done.stderr
    before, after = read_file(checkpoint), read_file(out)
    assert after.metadata == {"format": "pt"}
    for name, y in before.tensors.items():
        x = after.tensors[name]
        wanted = nk.project(y, "l1,linf", 3.0, axes="1,0") if name not in ("layer.bias", "ids") else y
        assert x.dtype == y.dtype
        assert x.tobytes() == wanted.tobytes()
    taken = json.loads(timing.read_text())
    assert set(taken) == {"layer.weight", "head.weight", "half"}
    assert taken["head.weight"]["engine"] == "inline"


def test_without_a_pattern_it_projects_what_the_norm_fits(checkpoint: Path, tmp_path: Path) -> None:
    done = run("project", checkpoint, tmp_path / "out.safetensors", "--sparsity", 0.5)
    assert done.exit_code == 0, done.stderr
    for name, y in read_file(checkpoint).tensors.items():
        wanted = nk.project(y, "l1,linf", sparsity=0.5) if y.ndim == 2 else y
        assert read_file(tmp_path / "out.safetensors").tensors[name].tobytes() == wanted.tobytes()
    none = run("project", checkpoint, tmp_path / "out.safetensors", "--radius", 1, "--axes", "0,1.2")
    assert none.exit_code == 2
    assert none.stderr == f"normtree: tensor: none of the 5 tensors of {checkpoint} fits the norm l1,linf\n"


def test_it_finds_the_radius_from_the_sparsity(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", RNG.standard_normal((40, 30)).astype(np.float32))
    done = run("project", tmp_path / "y.npy", tmp_path / "x.npy", "--sparsity", 0.75)
    assert done.exit_code == 0, done.stderr
    assert (np.load(tmp_path / "x.npy") == 0).all(axis=1).sum() == 30


def test_it_keeps_so_many_groups(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", y := RNG.standard_normal((40, 30)))
    done = run("project", tmp_path / "y.npy", tmp_path / "x.npy", "--groups", 7)
    assert done.exit_code == 0, done.stderr
    assert np.load(tmp_path / "x.npy").tobytes() == nk.project(y, "l1,linf", groups=7).tobytes()
    assert (np.load(tmp_path / "x.npy") != 0).any(axis=1).sum() <= 7


def test_it_says_where_no_group_is_left(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.ones((40, 30)))
    done = run("project", tmp_path / "y.npy", tmp_path / "x.npy", "--groups", 7, "--timing", tmp_path / "t.json")
    assert done.exit_code == 0, done.stderr
    assert (
        done.stderr == "normtree: no group is left of the 7 asked for: the largest are tied, and ties share one fate\n"
    )
    (timing,) = json.loads((tmp_path / "t.json").read_text()).values()
    assert (timing["groups_asked"], timing["groups_left"]) == (7, 0)


def test_it_sees_heads_as_groups(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", y := RNG.standard_normal((24, 10)).astype(np.float32))
    given: list[str | float | Path] = ["--groups", 2, "--norm", "l1,l2", "--split", "0:6"]
    done = run("project", tmp_path / "y.npy", tmp_path / "x.npy", *given)
    assert done.exit_code == 0, done.stderr
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (24, 10)
    assert x.tobytes() == nk.project(y.reshape(6, 4, 10), "l1,l2", groups=2).tobytes()
    planned = run("plan", "24x10", *given)
    assert "24 × 10, seen as 6 × 4 × 10," in planned.stdout
    wrong = run("project", tmp_path / "y.npy", tmp_path / "z.npy", "--groups", 2, "--split", "0:7")
    assert (wrong.exit_code, wrong.stderr) == (
        2, "normtree: split: 7 must divide axis 0, got a length of 24 in (24, 10)\n",
    )  # fmt: skip
    assert not (tmp_path / "z.npy").exists()


def test_it_finds_the_nearest_point_where_asked(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", y := RNG.standard_normal((40, 30)))
    done = run("project", tmp_path / "y.npy", tmp_path / "x.npy", "--radius", 5, "--exact")
    assert done.exit_code == 0, done.stderr
    assert np.load(tmp_path / "x.npy").tobytes() == nk.project(y, "l1,linf", 5.0, exact=True).tobytes()


def test_it_projects_a_npy(tmp_path: Path) -> None:
    y = RNG.standard_normal((20, 30))
    np.save(tmp_path / "y.npy", y)
    done = run("project", tmp_path / "y.npy", tmp_path / "x.npy", "--norm", "l1,l2", "--radius", 5)
    assert done.exit_code == 0, done.stderr
    assert np.load(tmp_path / "x.npy").tobytes() == nk.project(y, "l1,l2", 5.0).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--radius", "-1"], "radius: must be finite and >= 0, got -1.0"),
        (["--radius", "1", "--norm", "l3"], "layer.weight: norm: unknown norm 'l3', wanted one of l1, l2, linf"),
        ([], "radius: exactly one of radius, sparsity, groups is wanted, got none"),
        (
            ["--radius", "1", "--sparsity", "0.5"],
            "radius: exactly one of radius, sparsity, groups is wanted, got radius and",
        ),
        (["--sparsity", "2"], "sparsity: wanted a share from 0 to 1, got 2.0"),
        (["--sparsity", "0.5", "--norm", "l2,linf"], "layer.weight: sparsity: only an outermost l1 level"),
        (["--radius", "1", "--tensor", "nothing"], "tensor: 'nothing' matches none of the 5 tensors"),
        (
            ["--radius", "1", "--tensor", "("],
            "tensor: wanted a regular expression in the syntax of RE2: missing ): (, got '('",
        ),
        (["--radius", "1", "--workers", "0"], "workers: Input should be greater than or equal to 1, got 0"),
        (
            ["--radius", "1", "--tensor", "ids"],
            "ids: tensor: wanted dtype float64, float32, float16, bfloat16, got int64",
        ),
    ],
)
def test_a_wrong_argument_is_told_in_a_line_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    tensor = [] if "--tensor" in arguments else ["--tensor", "layer.weight"]
    done = run("project", checkpoint, tmp_path / "out.safetensors", *arguments, *tensor)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"normtree: {message}")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "in.npy", "No such file"),
        (b"\x93NUMPY", "in.npy", "in.npy"),
        (b"PK\x03\x04", "in.npy", "in.npy: wanted .npy, which begins with \\x93NUMPY"),
        (b"12345678", "in.safetensors", "in.safetensors"),
        (b"", "in.pt", "wanted a name that ends in .npy or .safetensors"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, content: bytes | None, name: str, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run("project", tmp_path / name, tmp_path / "out.npy", "--radius", "1")
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def with_opaque(path: Path, name: str = "scaled") -> Path:
    """Write a file of a matrix, a number of no axes, and types that NumPy has no names for."""
    tensors = {"a.weight": RNG.standard_normal((8, 4), np.float32), "scale": np.array(2.5, np.float32)}
    opaque = {name: Opaque("F8_E4M3", (3, 5), bytes(range(15))), "phase": Opaque("C64", (2,), bytes(range(16)))}
    write_file(path, TensorFile(tensors, {"format": "pt"}, opaque))
    return path


def test_tensors_of_no_axes_and_of_unknown_types_are_kept(tmp_path: Path) -> None:
    source, out = with_opaque(tmp_path / "in.safetensors"), tmp_path / "out.safetensors"
    for pattern in ([], ["--tensor", "a.*"]):
        done = run("project", source, out, "--sparsity", 0.5, *pattern)
        assert done.exit_code == 0, done.stderr
        before, after = (dict(safetensors.deserialize(path.read_bytes())) for path in (source, out))
        assert {name: each["shape"] for name, each in after.items()} == {
            "a.weight": [8, 4],
            "scale": [],
            "scaled": [3, 5],
            "phase": [2],
        }
        assert [name for name in after if after[name] != before[name]] == ["a.weight"]
    named = run("project", source, out, "--sparsity", 0.5, "--tensor", ".*")
    assert named.exit_code == 2
    # Which of the two comes first is as the file's header happens to be read.
    assert re.search("wanted dtype float64, float32, float16, bfloat16, got (C64|F8_E4M3)", named.stderr)


@pytest.mark.parametrize("name", ["x[/b].weight", "state[exp_avg].weight", "[red]w", "\x1b]0;gone\x07w", "\u202ew\nx"])
def test_a_name_is_shown_as_it_is_and_steers_no_terminal(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / "in.safetensors", TensorFile({name: RNG.standard_normal((4, 3)), "b": np.zeros(3)}))
    done = run("project", tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--sparsity", 0.5)
    assert done.exit_code == 0, done.stderr
    assert printable(name) in done.stdout
    assert not set("\x1b\x07\u202e") & set(done.stdout)
    refused = run("project", tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--radius", "-1")
    assert not set("\x1b\x07\u202e") & set(refused.stderr)


def test_a_terminal_of_ascii_gets_what_it_has_letters_for(tmp_path: Path) -> None:
    write_file(
        tmp_path / "in.safetensors", TensorFile({"gewicht\u00e4": RNG.standard_normal((4, 3)), "b": np.zeros(3)})
    )
    command = [
        sys.executable,
        "-m",
        "normtree.cli",
        "project",
        "in.safetensors",
        "out.safetensors",
        "--sparsity",
        "0.5",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gewicht?" in done.stdout


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize(("mode", "wanted"), [(0o600, 0o600), (0o644, 0o640), (0o777, 0o750), (0o444, 0o440)])
def test_the_output_has_the_inputs_permissions_less_the_umasks(
    tmp_path: Path, suffix: str, mode: int, wanted: int
) -> None:
    source, target = (tmp_path / f"{name}{suffix}" for name in ("in", "out"))
    write_file(source, TensorFile({"y": RNG.standard_normal((4, 3))}))
    source.chmod(mode)
    before = os.umask(0o027)
    try:
        assert run("project", source, target, "--sparsity", 0.5).exit_code == 0
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == wanted


def test_a_folder_that_is_not_there_is_told_before_the_work(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", RNG.standard_normal((4, 3)))
    done = run("project", tmp_path / "y.npy", tmp_path / "none" / "x.npy", "--radius", 1)
    assert done.exit_code == 2
    assert done.stderr == f"normtree: {tmp_path / 'none'}: no such folder\n"


@pytest.mark.parametrize("command", ["project y.npy x.npy --radius 1", "plan 3x4", "bench"])
def test_an_engine_there_is_not_is_refused_at_once(command: str) -> None:
    done = run(*command.split(), "--engine", "gpu")
    assert done.exit_code == 2
    assert "'gpu' is not one of" in done.stderr


def test_one_tensor_needs_no_name_in_its_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", RNG.standard_normal((4, 3)))
    done = run("project", tmp_path / "y.npy", tmp_path / "x.npy", "--groups", 5)
    assert done.stderr == "normtree: groups: wanted 0 to 4, the outermost groups there are, got 5\n"


@pytest.mark.parametrize(("options", "why"), [([], "Ray is off; "), (["--engine", "inline"], "asked; ")])
def test_plan_says_asked_where_it_was(options: list[str], why: str) -> None:
    assert f"why        {why}" in run("plan", "64x32", *options).stdout


def test_bench_measures_the_machine_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured: list[MachineProfile] = []

    def counted(*arguments: Any) -> MachineProfile:
        measured.append(measure(*arguments))
        return measured[-1]

    monkeypatch.setattr(projector, "measure", counted)
    monkeypatch.setattr(leaf_bench, "SIZES", dict.fromkeys(leaf_bench.SIZES, (1 << 12, 1 << 18)))
    monkeypatch.setattr(cli, "_BENCH_SHAPES", ((8, 8),))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for options, count in ((["--profile"], 1), ([], 1), (["--profile"], 2)):
        done = run("bench", *options)
        assert done.exit_code == 0, done.stderr
        assert len(measured) == count


def test_a_first_command_compiles_what_it_needs_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    np.save(tmp_path / "y.npy", y := RNG.standard_normal(12))
    for told in (
        r"normtree: compiling kernels: 1 of 1, to be kept in .*\nnormtree: compiled kernels: 1 of 1, .*\n",
        "",
    ):
        done = start("project", tmp_path / "y.npy", tmp_path / "x.npy", "--norm", "linf", "--radius", "0.5")
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(told, done.stderr)
        assert np.load(tmp_path / "x.npy").tobytes() == nk.project(y, "linf", 0.5).tobytes()
    assert {file.name.partition("-")[0] for file in tmp_path.glob("cache/*/*")} == {"linf.rows_up", "linf.rows_down"}


def test_warm_tells_where_kernels_are_kept() -> None:
    done = run("warm")
    assert done.exit_code == 0, done.stderr
    told = re.fullmatch(r"(\d+) groups of kernels, 0 of them compiled now: .* s\nkept in (.+): .*iB\n", done.stdout)
    assert told
    assert (int(told[1]), Path(told[2]).is_dir()) == (len(ALL), True)


def test_warm_says_what_to_set_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/normtree")
    done = start("warm")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("normtree: compiled kernels cannot be kept: /proc/normtree/")
    assert done.stderr.endswith("set NUMBA_CACHE_DIR to a folder that this user, and nobody else, can write to\n")


def test_plan_prints_the_plan() -> None:
    done = run("plan", "64x32x3x3", "--axes", "0,1.2.3", "--norm", "l1,l2")
    assert done.exit_code == 0, done.stderr
    assert "l1,l2 over axes 0,1.2.3" in done.stdout
    assert "72 KiB" in done.stdout
    assert "UTC, others had" in done.stdout
    assert "radius     none was given" in done.stdout


def test_plan_takes_what_a_projection_is_to_reach() -> None:
    done = run("plan", "64x32", "--sparsity", 0.9)
    assert "l1,linf over axes 0,1, sparsity 0.9" in done.stdout
    assert "none was given" not in done.stdout
    assert "groups: wanted 0 to 64" in run("plan", "64x32", "--groups", 65).stderr


def test_plan_refuses_a_shape_that_is_none() -> None:
    done = run("plan", "64*32")
    assert done.exit_code == 2
    assert "shape: wanted lengths such as 30522x384, got '64*32'" in done.stderr


def test_an_address_that_would_expose_the_service_is_refused() -> None:
    done = run("serve", "--host", "0.0.0.0")
    assert done.exit_code == 2
    assert "can be reached from other machines" in done.stderr


def test_a_port_in_use_is_told_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", port)
    assert done.exit_code == 2
    assert done.stderr == f"normtree: 127.0.0.1:{port}: cannot be bound: Address already in use\n"


def test_a_host_that_is_none_is_told_before_anything_is_started() -> None:
    done = run("serve", "--host", "nowhere.invalid", "--insecure")
    assert done.exit_code == 2
    assert done.stderr.startswith("normtree: nowhere.invalid: no such address: ")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "ARENA_BYTES",
            "1x",
            "arena_bytes: Input should be a valid integer, unable to parse string as an integer, got '1x'",
        ),
        ("KEYS", "secret", "keys: line 1: wanted NAME sha256:HEX, as `normtree key new NAME` prints it"),
        ("KEYS_FILE", "/none/keys", "keys_file: /none/keys: No such file or directory"),
    ],
)
def test_a_wrong_setting_is_told_and_no_key(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"NORMTREE_{name}", value)
    done = run("serve")
    assert done.exit_code == 2
    assert done.stderr == f"normtree: {message}\n"


@pytest.mark.parametrize(
    "command",
    ["serve", "project", "plan", "bench", "demo", "key new", "job plan", "job run"],
)
def test_every_command_explains_itself(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.exit_code == 0
    assert f"Usage: root {command}" in done.output


def test_serve_tells_of_every_setting() -> None:
    shown = run("serve", "--help").output
    options = {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", shown)}
    named = {name.lower() for name in re.findall(r"NORMTREE_([A-Z_]+):", shown)}
    assert options | named >= Settings.model_fields.keys()


def test_installed_command_tells_its_version() -> None:
    done = start("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.1.0\n", "")


def test_installed_command_complains_on_standard_error(tmp_path: Path) -> None:
    done = start("project", tmp_path / "in.npy", tmp_path / "out.npy", "--radius", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"normtree: {tmp_path / 'in.npy'}: No such file or directory\n"
