"""The data-flow graph of a report, for Graphviz and Mermaid."""

from __future__ import annotations

from audit_scene import Scene, hash_of, tell, without, witnessed
from hopseal.custody.delegation import Continuation
from hopseal.log.audit.graph import EdgeKind, build_graph, format_dot, format_mermaid
from vectors.scene import random_id


def test_calls_are_nodes_and_a_cited_answer_is_a_dashed_edge() -> None:
    graph = build_graph(witnessed().scene.audit(), judged=True)
    assert len(graph.nodes) == 3
    assert sorted(edge.kind for edge in graph.edges) == [EdgeKind.BASED_ON, EdgeKind.CALLS, EdgeKind.CALLS]
    dot, mermaid = format_dot(graph), format_mermaid(graph)
    assert 'style=dashed, label="based on"' in dot
    assert dot.count(" -> ") == 3
    assert "-. based on .->" in mermaid
    assert "class n0,n1,n2 verified" in mermaid


def test_without_a_judgement_nothing_has_a_colour() -> None:
    graph = build_graph(witnessed().scene.audit(), judged=False)
    assert "color" not in format_dot(graph)
    assert "classDef" not in format_mermaid(graph)


def test_an_edge_to_what_is_not_here_is_left_out() -> None:
    story = witnessed()
    report = story.scene.audit(without(story.scene.bundle(), story.first, story.told))
    assert build_graph(report, judged=True).edges == ()


def test_a_continued_chain_is_an_edge_too() -> None:
    story = tell()
    earlier = Continuation(hash_of(story.ask), story.scene.cid, "queue")
    story.scene.cid = random_id("continued")
    story.scene.call("reasoner", "crm-connector", cont=earlier)
    story.scene.witness()
    graph = build_graph(story.scene.audit(), judged=True)
    assert EdgeKind.CONTINUES in {edge.kind for edge in graph.edges}
    assert any("no answer" in node.label for node in graph.nodes)


def test_text_of_a_claim_cannot_leave_its_label() -> None:
    scene = Scene().begin()
    scene.call("shell", "orchestrator", op='x"]; end\n subgraph "\\ \x1b[31m')
    graph = build_graph(scene.witness().audit(), judged=True)
    (line,) = [each for each in format_dot(graph).splitlines() if "label=" in each]
    assert line.count('"') - line.count('\\"') == 4
    assert "\x1b" not in line
    (line,) = [each for each in format_mermaid(graph).splitlines() if each.startswith("  n0[")]
    assert line.count('"') == 2
    assert "]" not in line[:-1]
