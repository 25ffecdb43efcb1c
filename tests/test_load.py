"""Exported libraries from Python: calls, and every file that is not one for this machine."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc import nn, optim
from graphc.codegen.target import host_target
from graphc.errors import ArgumentError, ArtifactError, DTypeError, ShapeError, TargetError
from graphc.exporter import export
from graphc.ir.types import f32, i32, i64
from graphc.runtime.abi import MAGIC
from graphc.runtime.library import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the libraries are linked with Linux's cc")
ON_X86 = host_target().triple.startswith("x86_64")


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    entries = graphc.training_entries(model, nn.cross_entropy, optim.Adam(0.01), (f32[6, 7], i32[6]))
    return export(entries, name="mlp", to=tmp_path_factory.mktemp("mlp"), emit=["shared", "object"]).files[
        "shared"
    ]


@pytest.fixture
def arrays(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32) / 2

    shapes = {"0.weight": (5, 7), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,)}
    params = {name: draw(*shape) for name, shape in shapes.items()}
    state: dict[str, np.ndarray] = {"step": np.zeros((), np.int32)}
    for name, shape in shapes.items():
        state[f"exp_avg.{name}"], state[f"exp_avg_sq.{name}"] = np.zeros(shape, "f4"), np.zeros(shape, "f4")
    batch = {"x": draw(6, 7), "y": rng.integers(0, 3, 6).astype(np.int32)}
    return {"params": params, "state": state, **batch}  # type: ignore[dict-item]


def test_a_library_trains_where_the_compiler_is_not_installed(
    mlp: Path, arrays: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """With numpy and ctypes alone, to the same bits as here."""
    library = load(mlp)
    flat = {f"params.{n}": a for n, a in arrays["params"].items()} | {
        f"state.{n}": a for n, a in arrays["state"].items()
    }
    np.savez(tmp_path / "in.npz", **flat, x=arrays["x"], y=arrays["y"])  # type: ignore[arg-type]
    code = (
        "import sys\n"
        "for name in ('llvmlite', 'networkx', 'hypothesis'): sys.modules[name] = None\n"
        "import numpy as np, graphc\n"
        "arrays = dict(np.load('in.npz'))\n"
        f"library = graphc.load({str(mlp)!r})\n"
        "for _ in range(3): out = library.train_step(**arrays, learning_rate=0.01)\n"
        "np.savez('out.npz', **out)\n"
        "rooms = {m.split('.')[1] for m in sys.modules if m.startswith('graphc.')}\n"
        "print(sorted(rooms))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(graphc.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['errors', 'runtime']"
    for _ in range(3):
        expected = library.train_step(**arrays, learning_rate=0.01)
    with np.load(tmp_path / "out.npz") as found:
        assert set(found.files) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert expected["state.step"] == 3


def test_arguments_by_position_by_name_and_in_dicts(
    mlp: Path, arrays: dict[str, dict[str, np.ndarray]]
) -> None:
    predict = load(mlp).predict
    params, x = arrays["params"], arrays["x"]
    expected = predict(*params.values(), x)
    assert expected.shape == (6, 3)
    dotted = {f"params.{name}": a for name, a in params.items()}
    in_c = {f"params_{name.replace('.', '_')}": a for name, a in params.items()}
    first = {name: params[f"0.{name}"] for name in ("weight", "bias")}
    last = {name: params[f"2.{name}"] for name in ("weight", "bias")}
    for how in (
        predict(params=params, x=x),
        predict(**dotted, x=x),
        predict(**in_c, x=x),
        predict(params={"0": first, "2.weight": last["weight"], "2.bias": last["bias"]}, x=x),
        predict(*first.values(), **{"params.2": last}, x=x),
    ):
        np.testing.assert_array_equal(how, expected)


def test_donated_arrays_are_updated_in_place(mlp: Path, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    weight = arrays["params"]["0.weight"]
    before = weight.copy()
    out = load(mlp).train_step(**arrays, learning_rate=np.float32(0.1))
    assert out["params.0.weight"] is weight and (weight != before).any()
    assert list(out)[-1] == "loss" and out["loss"].shape == ()


def test_a_seed_gives_the_weights_that_python_draws(mlp: Path) -> None:
    library = load(mlp)
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    draw = graphc.compile(lambda seed: model.init(graphc.random.key(seed))[0], i64[()])
    for seed in (0, 7, 2**40 + 3):
        out, expected = library.init(seed), draw(seed)
        for name, value in expected.items():
            np.testing.assert_allclose(out[f"params.{name}"], value, rtol=1e-6)
        assert all((a == 0).all() for name, a in out.items() if name.startswith("state."))
    assert (library.init(1)["params.0.weight"] != library.init(2)["params.0.weight"]).any()


def test_a_library_starts_and_trains_by_itself(mlp: Path, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    library = load(mlp)
    values = library.init(seed=3)
    losses = [
        float(library.train_step(**values, learning_rate=0.02, x=arrays["x"], y=arrays["y"])["loss"])
        for _ in range(60)
    ]
    assert losses[-1] < losses[0] / 2


def test_calls_from_several_threads_agree(mlp: Path, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    predict = load(mlp).predict
    given = [*arrays["params"].values(), arrays["x"]]
    expected = predict(*given)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: predict(*given), range(200)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda f, p, x: f(x), ArgumentError, "mlp_predict: expected 5 arguments .* got 1"),
        (lambda f, p, x: f(params=p), ArgumentError, "predict: expected 5 arguments .* got none for x"),
        (lambda f, p, x: f(params=p, x=x, z=x), ArgumentError, "predict: expected some of .* got 'z'"),
        (lambda f, p, x: f(x, x=x, params=p), ArgumentError, "params.0.weight: expected one array, got two"),
        (
            lambda f, p, x: f(params=p, x=x[:2]),
            ShapeError,
            r"x: expected float32\[6,7\], got float32\[2, 7\]",
        ),
        (
            lambda f, p, x: f(params=p, x=x.astype("f8")),
            DTypeError,
            r"x: expected float32\[6,7\], got float64",
        ),
    ],
)
def test_wrong_arguments_are_named(
    call: Callable[..., object], error: type[Exception], text: str, mlp: Path,
    arrays: dict[str, dict[str, np.ndarray]],
) -> None:  # fmt: skip
    with pytest.raises(error, match=text):
        call(load(mlp).predict, arrays["params"], arrays["x"])


def test_what_a_library_shows(mlp: Path) -> None:
    library = load(mlp)
    assert repr(library) == "<library mlp: init, predict, loss, grads, train_step>"
    assert "predict" in dir(library) and library.info.name == "mlp" and library.level in (1, 3, 4)
    assert repr(library.predict).endswith("x: float32[6,7]) -> (prediction: float32[6,3])>")
    with pytest.raises(AttributeError, match=r"<library mlp: .*> has no entry 'fit'"):
        library.fit  # noqa: B018
    with pytest.raises(ArgumentError, match="mlp: expected a call of one of its entries init, predict, loss"):
        library()


def test_a_library_with_one_entry_is_called_itself_under_any_file_name(tmp_path: Path) -> None:
    made = export(lambda x: x * 3, f32[2], to=tmp_path, name="thrice", emit=["shared"]).files["shared"]
    moved = made.rename(tmp_path / "renamed.library")
    assert load(moved)(np.float32([1, 2])).tolist() == [3, 6]


# -------------------------------------------------------------------------------------------------------------- refusals


def test_files_that_are_no_library(mlp: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a library")
    (tmp_path / "empty").write_bytes(b"")
    mark = r"expected a library that graphc exported, got "
    for path, text in (
        (tmp_path / "nowhere.so", mark + "No such file"),
        (tmp_path, mark + "Is a directory"),
        (tmp_path / "text", mark + "a file without its mark"),
        (tmp_path / "empty", mark + "a file without its mark"),
        (Path(sys.executable).resolve(), mark + "a file without its mark"),
        (mlp.with_suffix(".o"), "expected a shared library, got another kind of ELF file"),
    ):
        with pytest.raises(ArtifactError, match=text):
            load(path)


def test_a_library_that_is_cut_short_is_refused_wherever_it_ends(mlp: Path, tmp_path: Path) -> None:
    whole = mlp.read_bytes()
    cut = tmp_path / "cut.so"
    for length in (*range(0, len(whole), 997), len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"cut\.so: expected "):
            load(cut)


def changed(mlp: Path, folder: Path, old: bytes, new: bytes) -> Path:
    """The library with other bytes in its info, of the same length."""
    data = mlp.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    file = folder / "changed.so"
    file.write_bytes(data.replace(old, new))
    return file


def test_another_version_of_the_abi(mlp: Path, tmp_path: Path) -> None:
    file = changed(mlp, tmp_path, MAGIC + struct.pack("<i", 1), MAGIC + struct.pack("<i", 2))
    with pytest.raises(ArtifactError, match=r"changed\.so: expected version 1 of the ABI, got 2"):
        load(file)


def test_damaged_info(mlp: Path, tmp_path: Path) -> None:
    for old, new in ((b'"entries":', b'"entrees":'), (b'"workspace_bytes":', b'"workspace_bytes";')):
        data = mlp.read_bytes().replace(old, new)
        (tmp_path / "bad.so").write_bytes(data)
        with pytest.raises(ArtifactError, match="library info: expected the JSON of a graphc library"):
            load(tmp_path / "bad.so")
    file = changed(mlp, tmp_path, b'{"name":"mlp"', b'{"name":"nlp"')
    with pytest.raises(ArtifactError, match=r"expected a library that loads, got: .*nlp_cpu"):
        load(file)


@pytest.mark.skipif(not ON_X86, reason="needs x86-64")
def test_another_machine_or_a_newer_processor(mlp: Path, tmp_path: Path) -> None:
    file = changed(mlp, tmp_path, b'"triple":"x86_64-', b'"triple":"mips64-')
    with pytest.raises(
        TargetError, match="expected a library for x86_64 on linux, got one for mips64-unknown"
    ):
        load(file)
    file = changed(mlp, tmp_path, b'"levels":[1,3,4]', b'"levels":[8,8,9]')
    with pytest.raises(TargetError, match=r"expected a processor of level 8, .* got one of level [134], "):
        load(file)


def odd_functions() -> dict[str, graphc.Entry]:
    """Functions whose arguments or results are of an unusual kind."""
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "no_arguments": graphc.Entry(lambda: graphc.asarray(table) * 2),
        "an_argument_itself": graphc.Entry(lambda x: (x, x), [f32[3]]),
        "unused": graphc.Entry(lambda x, y: y + 1, [f32[3], f32[3]]),
        "a_constant": graphc.Entry(lambda x: (graphc.asarray(table), x.sum()), [f32[3]]),
        "empty": graphc.Entry(lambda x: (x + 1, x.sum()), [f32[0, 3]]),
        "passed_on": graphc.Entry(lambda w, x: {"w": w, "y": w * x}, [f32[3], f32[3]], donate=["w"]),
        "swapped": graphc.Entry(lambda a, b: (b * 2, a * 3), [f32[3], f32[3]], donate=["a", "b"]),
        "shapes": graphc.Entry(lambda x: {"level": x.T @ x, "self": x > 0}, [f32[3, 5]]),
        "level": graphc.Entry(lambda self, arrays: self + arrays, [i32[2], i32[2]]),
    }


def test_odd_functions_do_what_their_compiled_form_does(tmp_path: Path, rng: np.random.Generator) -> None:
    made = odd_functions()
    library = load(export(made, name="odd", to=tmp_path, emit=["shared"]).files["shared"])
    for name, entry in made.items():
        function = library.entries[name]
        arrays = [np.asarray(rng.normal(size=a.shape) * 4, a.dtype) for a in function.info.inputs]
        copies = [a.copy() for a in arrays]
        compiled = graphc.compile(entry.function, *entry.specs, donate=entry.donate)
        expected = compiled.flat(*copies)
        by_name = {a.name: array for a, array in zip(function.info.inputs, arrays, strict=True)}
        out = function(**by_name) if name == "level" else function(*arrays)
        found = list(out.values()) if isinstance(out, dict) else [out]
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-6, err_msg=name)
        for value, wanted in zip(arrays, copies, strict=True):  # what is donated, and what is not
            np.testing.assert_allclose(value, wanted, rtol=1e-6, err_msg=name)
