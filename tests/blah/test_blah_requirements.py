import classad2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gahp.blah import literals, requirements

relaxed = settings(deadline=None, database=None)

PEGASUS_512 = (
    'JOBNAME=="findrangeID0000" && PASSENV==1 && NODES=="1" && CORES=="2" && GPUS=="1" && PROCS=="2" && WALLTIME=="00:30:00"'
    ' && PER_PROCESS_MEMORY=="2048" && PROJECT=="myproj" && PRIORITY==30 && EXTRA_ARGUMENTS=="--jobdef foo"'
)
PEGASUS_513 = 'JOBNAME=="analyzeID000000" && PASSENV==1 && CORES=="" && TOTAL_MEMORY=="2048" && PRIORITY==40'


def as_classad2_writes_it(expression):
    return str(classad2.ClassAd(f"[ CERequirements = {expression} ]").lookup("CERequirements"))


@pytest.mark.parametrize(
    ("expression", "bound"),
    [
        ('img == "x" && mem == 5', {"img": "x", "mem": 5}),
        ('RequestCpus == 3 && Foo == "bar"', {"requestcpus": 3, "foo": "bar"}),
        ('Memory > 10 && Image == "x"', {"memory": 11, "image": "x"}),
        ('JOBNAME=="preprocessID0" && PASSENV==1 && PRIORITY==20', {"jobname": "preprocessID0", "passenv": 1, "priority": 20}),
        (
            PEGASUS_512,
            {
                "jobname": "findrangeID0000",
                "passenv": 1,
                "nodes": "1",
                "cores": "2",
                "gpus": "1",
                "procs": "2",
                "walltime": "00:30:00",
                "per_process_memory": "2048",
                "project": "myproj",
                "priority": 30,
                "extra_arguments": "--jobdef foo",
            },
        ),
        (PEGASUS_513, {"jobname": "analyzeID000000", "passenv": 1, "cores": "", "total_memory": "2048", "priority": 40}),
        ("a == 1", {"a": 1}),
        ("a =?= 1 && b is 2", {"a": 1, "b": 2}),
        ('1 == a && "x" == b', {"a": 1, "b": "x"}),
        ("((a == 1) && (b == 2 && (c == (3))))", {"a": 1, "b": 2, "c": 3}),
        ("a == -5 && b == 1.5 && c == true && false == d", {"a": -5, "b": 1.5, "c": True, "d": False}),
        ('a == "say \\"hi\\" && b == 2" && c == "h\\303\\251"', {"a": 'say "hi" && b == 2', "c": "hé"}),
        ("other.a == 1 && TARGET.b == 2", {"a": 1, "b": 2}),
        ("a == 1 && A == 2", {"a": 2}),
        ("a >= 5 && 7 <= b && c > 2.5 && 3 < d", {"a": 5, "b": 7, "c": 3, "d": 4}),
        ("a >= 5 && a >= 8 && a >= 6", {"a": 8}),
        ("a >= 5 && a == 2", {"a": 2}),
        ("a <= 5 && b < 5 && 5 >= c && d != 5 && e isnt 5 && f =!= 5", {}),
        ('a > "x" && b >= true', {}),
        ("(a >= 5) || b == 2", {}),
        ("a == 1 && (b == 2 || c == 3) && d == 4", {"a": 1, "d": 4}),
        ("a == 1 && b == 2 || c == 3", {}),
        ("x ? a == 1 : b == 2", {}),
        ("!(a == 1) && b == 2", {"b": 2}),
        ("a == b && c == undefined && d == 1 + 1 && e && member(f, {1, 2})", {}),
        ("strcat(a, b) == 5 && g == 1", {"g": 1}),
        ("true", {}),
    ],
)
def test_the_top_level_comparisons_with_a_literal_bind(expression, bound):
    assert requirements.walk(expression) == bound
    assert requirements.walk(as_classad2_writes_it(expression)) == bound


@relaxed
@given(st.lists(st.tuples(st.from_regex(r"[a-z_]{1,6}x", fullmatch=True), st.one_of(st.integers(0, 2**62), st.text()))))
def test_every_conjunction_of_equalities_binds_what_it_says(pairs):
    pairs = [(name, value.replace("\0", "") if isinstance(value, str) else value) for name, value in pairs]
    expression = " && ".join(f"{name} == {literals.quote(value) if isinstance(value, str) else value}" for name, value in pairs)
    expected = dict(pairs)
    assert requirements.walk(expression) == expected
    assert requirements.walk(as_classad2_writes_it(expression or "true")) == expected


@relaxed
@given(st.one_of(st.text(), st.text(alphabet='ab1=&|()<>!?:"\'\\ .-{}[]', max_size=40)))
def test_any_text_is_walked_or_refused_as_a_value_error(text):
    try:
        bound = requirements.walk(text)
    except ValueError as error:
        assert str(error)
    else:
        assert all(name == name.lower() for name in bound)


@pytest.mark.parametrize("text", ["a == 1)", "(a == 1", "(a == 1]", 'a == "open', "a == 1 && \x01"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError, match=r"brackets that do not match|no ClassAd expression from its character \d+ on"):
        requirements.walk(text)


def test_deep_nesting_and_long_chains_are_walked_without_recursion():
    deep = 20_000
    assert requirements.walk("(" * deep + "a == 1" + ")" * deep) == {"a": 1}
    assert requirements.walk("a == " + "(" * deep + "1" + ")" * deep) == {"a": 1}
    assert requirements.walk("(" * deep + "a == 1" + " && b == 2)" * deep) == {"a": 1, "b": 2}
    assert requirements.walk(" && ".join(f"n{number} == {number}" for number in range(deep)))["n19999"] == 19999
