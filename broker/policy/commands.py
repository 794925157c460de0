"""``hopseal policy``: the schema, checks, explanations and tests, found by the command line through an entry point.

Owns: arguments and what is printed. Does not own: verdicts, which the data plane's own code gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from broker.policy.cases import judge_case, load_cases
from broker.policy.config import PolicyConfig
from broker.policy.engine import schema_text
from broker.policy.past import find_decision
from broker.policy.question import Asked, build_question
from broker.policy.sources import Sources, configured_sources, load_sources
from hopseal.cli.admin import AdminClient
from hopseal.cli.lazy import EXIT_NO
from hopseal.cli.options import broker_socket_option
from hopseal.cli.output import escape_unprintable, format_count, json_option, print_json, print_table
from hopseal.errors import InvalidError
from hopseal.ids import TrustDomain

_F = TypeVar("_F", bound=Callable[..., Any])
_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


def _sources_options(function: _F) -> _F:
    options = (
        click.option("--config", "config_path", type=_FILE, help="The broker's configuration; stands for the rest."),
        click.option("--documents", type=_FOLDER, help="Folder of Agent documents."),
        click.option("--trust-domain", default="example.org", show_default=True, help="Trust domain of the documents."),
        click.option("--folder", type=_FOLDER, help="Folder of policies."),
        click.option("--admin-folder", type=_FOLDER, help="Folder of policies that no other overrides."),
        click.option("--observe", multiple=True, metavar="SET", help="A set whose denials are only told."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _sources(given: dict[str, Any]) -> Sources | None:
    if given["config_path"] is not None:
        return configured_sources(given["config_path"])
    if given["documents"] is None:
        return None
    policies = PolicyConfig(given["folder"], given["admin_folder"], given["observe"])
    return Sources(given["documents"], TrustDomain.parse(given["trust_domain"]), policies)


def _need_sources(given: dict[str, Any]) -> Sources:
    sources = _sources(given)
    if sources is None:
        raise InvalidError(
            "sources_missing", "no policies are named", remedy="give --config broker.yaml, or --documents and --folder"
        )
    return sources


@click.group(name="policy")
def policy_group() -> None:
    """Who may call whom: check, explain and test policies.

    \b
    Example:
      hopseal policy check --config /etc/hopseal/broker.yaml
    """


@policy_group.command()
def schema() -> None:
    """Print the Cedar schema: what a policy can ask about a call.

    \b
    Example:
      hopseal policy schema > hopseal.cedarschema
    """
    click.echo(schema_text(), nl=False)


@policy_group.command()
@_sources_options
@json_option
def check(*, as_json: bool, **given: Any) -> None:
    """Check documents and policies as the broker does before it uses them, and name every mistake.

    \b
    Example:
      hopseal policy check --documents agents/ --folder policies/ --admin-folder admin/
    """
    sources = _need_sources(given)
    loaded, observe = load_sources(sources), sources.policies.observe
    rows = [
        {"set": each.name, "layer": str(each.layer), "mode": "observe" if each.name in observe else "enforce"}
        for each in loaded.sets
    ]
    if as_json:
        print_json({"policies": len(loaded.engine), "sets": rows})
        return
    print_table(("set", "layer", "mode"), [tuple(row.values()) for row in rows])
    click.echo(f"{format_count(len(loaded.engine), 'policy rule')}, no mistakes")


@policy_group.command()
@click.argument("decision", required=False)
@click.option("--caller", help="Who calls: AGENT/COMPONENT or a SPIFFE ID.")
@click.option("--callee", help="Who is called: the same, or HOST:PORT outside.")
@click.option("--operation", help="As in a document: 'POST /items' or 'tools/call crm.lookup'.")
@click.option("--side", type=click.Choice(["caller", "callee"]), default="caller", show_default=True)
@click.option("--at", default="", help="The moment, like 2026-11-28T09:30:00Z; now if not given.")
@click.option("--given", "given_json", default="{}", help="More of the call as JSON: hop, task, chain, user, …")
@click.option("--log", "logs", type=_FILE, multiple=True, help="The broker's own log, to look the decision up in.")
@_sources_options
@broker_socket_option
@json_option
@click.pass_context
def explain(context: click.Context, /, decision: str | None, *, as_json: bool, **given: Any) -> None:
    """Explain which rules decide a call, or decided DECISION (the id in a refusal, a log line or a receipt).

    Asks the running broker, unless --config or --documents name policies to read instead. Exits 0 if the call is
    allowed, else 1.

    \b
    Example:
      hopseal policy explain q8ZrP2mK1x.3f
      hopseal policy explain --caller crm/front --callee crm/store --operation "POST /items"
    """
    found = _explain_past(decision, given) if decision else _explain_asked(given)
    if as_json:
        print_json(found)
    else:
        _print_past(found) if decision else _print(found)
    if not found["allowed"]:
        context.exit(EXIT_NO)


@policy_group.command(name="test")
@click.argument("file", type=_FILE)
@_sources_options
@json_option
@click.pass_context
def run_cases(context: click.Context, /, file: Path, *, as_json: bool, **given: Any) -> None:
    """Judge the cases in FILE: calls, with the expected decision and rule. Exits 0 if all hold, else 1.

    \b
    Example:
      hopseal policy test policies/cases.yaml --config /etc/hopseal/broker.yaml
    """
    cases = load_cases(file)
    loaded = load_sources(_sources(given) or cases.sources or _need_sources(given))
    told: list[dict[str, Any]] = []
    for case in cases.cases:
        found = loaded.engine.explain(build_question(case.asked, loaded.documents))
        told.append({"case": case.name, "expect": case.expect, "problem": judge_case(case, found), "found": found})
    failed = [each for each in told if each["problem"]]
    if as_json:
        print_json({"cases": told, "failed": len(failed)})
    else:
        rows = [(_outcome(each), str(each["case"]), str(each["problem"])) for each in told]
        print_table(("result", "case", "problem"), [tuple(escape_unprintable(cell) for cell in row) for row in rows])
        click.echo(f"{format_count(len(told), 'case')}, {len(failed)} failed")
    if failed:
        context.exit(EXIT_NO)


def _outcome(told: dict[str, Any]) -> str:
    return "failed" if told["problem"] else "ok"


def _explain_asked(given: dict[str, Any]) -> dict[str, Any]:
    missing = [name for name in ("caller", "callee", "operation") if not given[name]]
    if missing:
        raise click.UsageError(f"Give a decision's id, or {', '.join(f'--{name}' for name in missing)}.")
    try:
        more = json.loads(given["given_json"])
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="--given") from error
    asked = {name: given[name] for name in ("caller", "callee", "operation", "side", "at")} | {"given": more}
    sources = _sources(given)
    if sources is None:
        return AdminClient("broker", given["broker_socket"]).get("/v1/policies/explain", {"asked": json.dumps(asked)})
    loaded = load_sources(sources)
    return loaded.engine.explain(build_question(Asked(**asked), loaded.documents))


def _explain_past(decision: str, given: dict[str, Any]) -> dict[str, Any]:
    logged = find_decision(decision, given["logs"]) if given["logs"] else None
    if logged is None:
        return AdminClient("broker", given["broker_socket"]).get("/v1/decisions/" + decision)
    sources = _sources(given)
    if sources is not None and logged["question"]:
        logged["now"] = load_sources(sources).engine.explain(logged["question"])
    return logged


def _print(found: dict[str, Any]) -> None:
    click.echo(f"{_verdict(found)}: {escape_unprintable(found['detail'])}")
    rules = [(each["effect"], each["layer"], each["set"], each["rule"]) for each in found["rules"]]
    if rules:
        print_table(("effect", "layer", "set", "rule"), [tuple(map(escape_unprintable, rule)) for rule in rules])
    for each in found["would_deny"]:
        click.echo(f"would be denied by {', '.join(each['sets'])}: {escape_unprintable(each['detail'])}")
    reads = ", ".join(found["reads"]) or "nothing of the call"
    click.echo(f"looked at {format_count(found['considered'], 'policy rule')}, which read {reads}")


def _print_past(found: dict[str, Any]) -> None:
    question = found.get("question") or {}
    click.echo(f"decision {found['decision']}: {_verdict(found)} by {', '.join(found['policy']) or 'no rule'}")
    if found.get("detail"):
        click.echo(f"  {escape_unprintable(found['detail'])}")
    for each in found.get("would_deny") or ():
        click.echo(f"  would be denied by {escape_unprintable(each)}")
    for name in ("caller", "resource", "operation", "http", "hop", "task"):
        if question.get(name) is not None:
            click.echo(f"  {name}: {escape_unprintable(str(question[name]))}")
    if found.get("now"):
        click.echo("\nthe policies in force now say:")
        _print(found["now"])


def _verdict(found: dict[str, Any]) -> str:
    is_allowed = found["allowed"]
    return click.style("allowed" if is_allowed else "denied", fg="green" if is_allowed else "red", bold=True)
