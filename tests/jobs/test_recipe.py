"""Recipes: what is accepted, and errors that tell line and key."""

import time
from pathlib import Path

import pytest

from normtree.errors import InvalidRecipe
from normtree.jobs.recipe import parse_recipe, read_recipe

HEAD = 'input = "in"\noutput = "out"\n'


def rule(text: str) -> str:
    return f"{HEAD}\n[[rules]]\ntensors = '.*bias'\nradius = 1\n\n[[rules]]\ntensors = '.*'\n{text}\n"


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        (HEAD, "1: rules", "Field required"),
        ('input = "in"\n', "1: output", "Field required"),
        (f"inputs = 'x'\n{HEAD}[[rules]]\ntensors='a'\nradius=1", "1: inputs", "unknown key: did you mean input?"),
        (
            f"{HEAD}[[rules]]\ntensors='a('\nradius=1",
            "4: rules[0].tensors",
            "wanted a regular expression in the syntax of RE2",
        ),
        (f"{HEAD}[[rules]]\ntensors='a(?!b)'\nradius=1", "4: rules[0].tensors", "in the syntax of RE2: invalid perl"),
        (
            f"{HEAD}[[rules]]\ntensors='{'a' * 9999}'\nradius=1",
            "4: rules[0].tensors",
            "of at most 8192 letters, got 9999",
        ),
        (rule("radius = 1\nexclude = '('"), "11: rules[1].exclude", "in the syntax of RE2: missing )"),
        (rule(f"groups = 0x{'f' * 999}"), "10: rules[1].groups", "got 'an integer of 3996 bits'"),
        (f"input = \"a\\u0000b\"\noutput = '{'x' * 300}'\n[[rules]]\ntensors='a'\nradius=1", "1: ", "got 'a"),
        (rule("sparsity = 1.5"), "10: rules[1].sparsity", "Input should be less than or equal to 1, got 1.5"),
        (rule("sparsity = '1'"), "10: rules[1].sparsity", "Input should be a valid number, got '1'"),
        (rule("radius = -2"), "10: rules[1].radius", "Input should be greater than or equal to 0, got -2"),
        (rule("radius = nan"), "10: rules[1].radius", "Input should be a finite number, got nan"),
        (rule("groups = 2.5"), "10: rules[1].groups", "Input should be a valid integer, got 2.5"),
        (rule("norm = 'l1,l3'\nradius = 1"), "10: rules[1].norm", "unknown norm 'l3', wanted some of l1, l2, linf"),
        (rule("norm = 'l1,l1,l1,l1,l1,l1,l1,l1,l1'\nradius = 1"), "10: rules[1].norm", "at most 8 levels, got 9"),
        (rule("radius = 1\nspasity = 0.5"), "11: rules[1].spasity", "unknown key: did you mean sparsity?"),
        (rule("radius = 1\nscope='all'"), "11: rules[1].scope", "Input should be 'tensor' or 'global', got 'all'"),
        (rule("radius = 1\nsparsity = 0.5"), "8: rules[1]", "is wanted, got radius and sparsity"),
        (rule(""), "8: rules[1]", "exactly one of radius, sparsity, groups, relative_radius is wanted, got none"),
        (rule("norm='l2,l1'\nsparsity = 0.5"), "8: rules[1]", "only an outermost l1 level makes groups vanish"),
        (rule("norm='l1'\nradius = 1\nscope='global'"), "8: rules[1]", "scope: a global ball wants groups"),
        (rule("norm='l1,l1'\nradius = 1\nexact=true"), "8: rules[1]", "exact: the Euclidean projection is known for"),
        (rule("radius = 1\nexact=true\nscope='global'"), "8: rules[1]", "exact: on l1,linf it is known for one tensor"),
        (rule("sparsity = 0.5\nexact=true"), "8: rules[1]", "exact: on l1,linf no closed form is known"),
        ('input = "x/"\noutput = "x"\n[[rules]]\ntensors="a"\nradius=1', "1: ", "wanted another place than the input"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_key(text: str, where: str, message: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(text, "r.toml")
    assert str(caught.value).startswith(f"r.toml, line {where}")
    assert message in str(caught.value)


def test_what_is_no_toml_is_told_with_its_line() -> None:
    with pytest.raises(InvalidRecipe, match=r"r.toml: Expected newline .* \(at line 3, column 11\)"):
        parse_recipe(f"{HEAD}rules = 3 4", "r.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".".join(["a"] * 80_000) + " = 1", "r.toml, line 1: a key of more than 32 parts"),
        ("x = 1\n[" + ' . "b" . '.join(["'a'"] * 50_000) + "]", "r.toml, line 2: a key of more than 32 parts"),
        ("x = {" + ".".join(["a-_9"] * 33) + " = 1}", "r.toml, line 1: a key of more than 32 parts"),
        ("x = " + "[" * 60_000, "r.toml: it is nested too deep"),
        ("x = " + "{a=" * 20_000, "r.toml: it is nested too deep"),
        (f"x = {'9' * 5000}", "r.toml: Exceeds the limit"),
        ("".join(f"k{i} = 1\n" for i in range(8000)), "and 7992 mistakes more"),
        (HEAD + "[[rules]]\nx=1\n" * 5000, "and 9990 mistakes more"),
        (HEAD + f"rules = [{'{a=1},' * 10_000}]", "and 19990 mistakes more"),
        (f'"{" " * 60_000}" = 1', "unknown key: there are input, output, overlap, rules"),
        (HEAD + '[[rules]]\ntensors = "' + r"\\pL" * 2_000 + '"\nradius = 1', "pattern too large"),
    ],
)
def test_no_recipe_is_slow_or_large(text: str, message: str) -> None:
    start = time.thread_time()
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(text, "r.toml")
    assert time.thread_time() - start < 5
    assert message in str(caught.value)
    assert len(str(caught.value)) < 4000
    assert len(str(caught.value).splitlines()) <= 11


def test_a_recipe_may_begin_with_a_mark_of_its_order_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f"{HEAD}[[rules]]\ntensors = 'a'\nradius = 1\n", "utf-8-sig")
    assert read_recipe(tmp_path / "r.toml").rules[0].tensors == "a"


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(rule("sparsity = 2\nscope = 'x'"))
    assert len(str(caught.value).splitlines()) == 2


def test_relative_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("input = 'in'\noutput = 's3://bucket/out'\n[[rules]]\ntensors = '.*'\nradius = 1\n")
    recipe = read_recipe(path)
    assert recipe.input == str(tmp_path / "in")
    assert recipe.output == "s3://bucket/out"


def test_a_recipe_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match="No such file"):
        read_recipe(tmp_path / "none.toml")


def test_the_digest_tells_rules_apart_and_not_outputs() -> None:
    one, same, other = (
        parse_recipe(f"input='in'\noutput='{out}'\n[[rules]]\ntensors='a'\nradius={radius}")
        for out, radius in (("x", 1), ("y", 1), ("x", 2))
    )
    assert one.digest == same.digest != other.digest
