"""Old graphs → new graphs: plans are made, then nodes added, links moved and old nodes removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import other_packs as old
from .builder import GAP, Builder
from .document import Document, read
from .embeds import save_plan
from .graph import Graph, Node, NodeId, Output
from .kinds import APPLY, CONDITIONING_SET_MASK
from .pictures import picture_plan
from .planner import Planner
from .plans import ApplyPlan, Note, Replacement, SavePlan, Stays
from .presets import upstream
from .report import Entry, Report, Status, status_of
from .sources import Options, Sources

SUFFIX = ".bolid.json"

_LOADERS = (old.LOADER, *old.UNIFIED_LOADERS, *old.INSIGHTFACE_LOADERS)
_HELPERS = (
    *_LOADERS,
    old.ENCODER,
    old.FIRST_ENCODER,
    old.COMBINE_EMBEDS,
    old.BATCH_EMBEDS,
    old.REGION,
    old.COMBINE_PARAMS,
)
"""Nodes that are gone when everything that reads them is."""

_PASSED_ON = ("model", "positive", "negative")
"""Outputs of helpers that nodes of other kinds read, and that have a counterpart."""


def convert_file(source: Path, output: Path | None, options: Options) -> tuple[Report, Path | None]:
    """Convert a file into another one.

    Args:
        output: a new file; None: beside the old one, with `SUFFIX`.

    Returns:
        The report, and the file that was written; none where there was nothing to convert.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: see `document.read`; or the output is there already.
    """
    document = read(source)
    target = output if output is not None else source.with_suffix(SUFFIX)
    report = convert(document, options)
    if not report.changed:
        return report, None
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(document.text)
    except FileExistsError:
        raise ValueError(
            f"{target} exists already, and is not overwritten. Give another name by --output, or remove it."
        ) from None
    return report, target


def convert(document: Document, options: Options) -> Report:
    """Convert a graph with its subgraphs, in place."""
    report = Report(form=document.form)
    for number, graph in enumerate(document.graphs):
        _Conversion(graph, number, options, report).run()
    if document.form == "ui":
        report.entries += _group_nodes(document.content)
    if any(became.type == APPLY.type for entry in report.entries for became in entry.became):
        report.remarks.append(_about_the_middle_block(options))
    return report


def _about_the_middle_block(options: Options) -> str:
    if options.middle_block:
        return "The middle block takes part, as in versions of ComfyUI_IPAdapter_plus before 13 September 2024."
    return (
        "skip_middle is on (but for nodes of 2023): ComfyUI_IPAdapter_plus has not reached the middle block since 13 "
        "September 2024. Where the old pictures are older than that, convert with --middle-block."
    )


def _group_nodes(content: dict[str, Any]) -> Iterator[Entry]:
    """The frontend's old group nodes: their nodes stand apart from the graph."""
    groups = (content.get("extra") or {}).get("groupNodes") or {}
    for name, group in groups.items():
        types = {node.get("type", "") for node in group.get("nodes", ()) if isinstance(node, dict)}
        if types & {*old.KINDS, *old.WITHOUT_COUNTERPART}:
            reason = "group nodes are not looked into: ungroup it in ComfyUI, save, and convert the file again"
            yield Entry(graph=0, id=name, type="group node", title=name, status=Status.STAYS, notes=(reason,))


class _Conversion:
    """One graph."""

    def __init__(self, graph: Graph, number: int, options: Options, report: Report):
        self._graph = graph
        self._number = number
        self._sources = Sources(graph, options)
        self._planner = Planner(self._sources, options)
        self._report = report
        self._builder = Builder(graph)
        self._applied: dict[NodeId, ApplyPlan] = {}
        self._replacements: dict[NodeId, Replacement] = {}
        self._saves: dict[NodeId, SavePlan] = {}
        self._stays: dict[NodeId, str] = {}
        self._notes: dict[NodeId, list[Note]] = {}

    def run(self) -> None:
        """Convert the graph, and report."""
        self._plan()
        gone = self._gone()
        helpers = [node for node in self._graph.nodes.values() if node.id in gone and old.kind_of(node) in _HELPERS]
        self._graph.vacate(gone)
        for node in helpers:
            self._load(node)
        for replacement in self._replacements.values():
            self._builder.replace(replacement)
            self._notes[replacement.node] = replacement.notes
        for plan in self._applied.values():
            self._builder.apply(plan, self._lora_strength(plan, gone))
            self._notes[plan.node] = plan.notes
        for save in self._saves.values():
            self._builder.save(save)
            self._notes[save.node] = save.notes
        for node in helpers:
            self._pass_on(node)
        self._builder.link()
        wires = {wire for node in helpers for output in _own_outputs(node) for wire in self._graph.passing_on(output)}
        self._graph.remove(gone | wires)
        self._tell(gone, wires)

    # What goes

    def _plan(self) -> None:
        for node in self._graph.nodes.values():
            try:
                if self._planner.changes_model(node):
                    self._applied[node.id] = self._planner.apply_plan(node)
                elif (replacement := picture_plan(node, self._sources)) is not None:
                    self._replacements[node.id] = replacement
                elif node.type == old.SAVE_EMBEDS:
                    self._saves[node.id] = save_plan(node, self._sources)
                elif old.kind_of(node) in _HELPERS:
                    self._check_helper(node)
            except Stays as reason:
                self._stays[node.id] = str(reason)

    def _check_helper(self, node: Node) -> None:
        if node.type in old.INSIGHTFACE_LOADERS:
            self._sources.face_analysis(node)
        elif node.type in _LOADERS:
            self._sources.adapter_file(node)
        else:
            self._sources.settings(node)

    def _gone(self) -> set[NodeId]:
        """Old nodes that nothing needs any more."""
        helpers = {node.id for node in self._graph.nodes.values() if old.kind_of(node) in _HELPERS}
        helpers -= set(self._stays)
        gone = {*self._applied, *self._replacements, *self._saves, *helpers}
        while needed := {node_id for node_id in gone & helpers if not self._can_go(self._graph.nodes[node_id], gone)}:
            gone -= needed
        return gone

    def _can_go(self, node: Node, gone: set[NodeId]) -> bool:
        readers = self._readers(node)
        # A loader on its own has a counterpart, the other helpers have one together with their readers.
        return readers <= gone and (bool(readers) or node.type in _LOADERS)

    def _readers(self, node: Node) -> set[NodeId]:
        return {reader.node for output in _own_outputs(node) for reader in self._graph.readers(output)}

    # What comes

    def _load(self, node: Node) -> None:
        if node.type not in _LOADERS:
            return
        notes = self._notes.setdefault(node.id, self._sources.loader_notes(node))
        if node.type in old.INSIGHTFACE_LOADERS:
            self._builder.face_analysis(self._sources.face_analysis(node))
            return
        adapter = self._sources.adapter_file(node)
        plans = [plan for plan in self._applied.values() if plan.adapter == adapter]
        if not plans:
            self._builder.adapter(adapter, adapter.faceid_plus_version)
        if adapter.lora is not None and self._lora_gets_lost(node, plans):
            notes.append(Note("its LoRA reaches the MODEL with the adapter alone, not by other ways", differs=True))

    def _lora_gets_lost(self, loader: Node, plans: list[ApplyPlan]) -> bool:
        """Whether a MODEL with a loader's LoRA went elsewhere than to an adapter that brings the LoRA now."""
        with_lora = set()
        for plan in plans:
            if plan.loads_lora:
                with_lora.add(plan.node)
                with_lora.update(node.id for node in upstream(self._graph, plan.model))
        return any(reader.node not in with_lora for reader in self._graph.readers(old.output(loader, "model")))

    def _lora_strength(self, plan: ApplyPlan, gone: set[NodeId]) -> float:
        if not plan.adapter.is_faceid:
            return 1.0
        if plan.adapter.lora is None:
            plan.notes.append(Note("lora_strength 0: its loader brought no LoRA; LoRA nodes of the graph stay"))
            return 0.0
        if not plan.loads_lora:
            plan.notes.append(Note("lora_strength 0: the LoRA comes with another node of this MODEL, or with none"))
            return 0.0
        if plan.adapter.loader not in gone:
            plan.notes.append(Note("lora_strength 0: the loader stays, and its LoRA with it"))
            return 0.0
        if plan.branches[0].weight == 0:
            plan.notes.append(Note("at weight 0 the LoRA is left out as well", differs=True))
        return plan.adapter.lora

    def _pass_on(self, node: Node) -> None:
        """Where the outputs of a helper that other nodes read lead now."""
        if node.type in old.UNIFIED_LOADERS:
            self._builder.replaced[old.output(node, "model")] = node.links["model"]
        elif node.type == old.REGION:
            strength = self._sources.settings(node)["prompt_weight"]
            for number, name in enumerate(("positive", "negative")):
                conditioning, output = node.links.get(name), old.output(node, name)
                if conditioning is None or not any(True for _ in self._graph.readers(output)):
                    continue
                if "mask" in node.links:
                    below = number * (CONDITIONING_SET_MASK.size[1] + GAP)
                    self._builder.masked_conditioning(node, conditioning, output, strength=strength, below=below)
                else:
                    self._builder.replaced[output] = conditioning

    # What is told

    def _tell(self, gone: set[NodeId], wires: set[NodeId]) -> None:
        self._report.files += [file for file in self._builder.files if file not in self._report.files]
        for node in self._graph.nodes.values():
            entry = self._entry(node, gone)
            if entry is not None:
                self._report.entries.append(entry)
            elif node.id not in wires:
                self._report.untouched += 1

    def _entry(self, node: Node, gone: set[NodeId]) -> Entry | None:
        about: dict[str, Any] = {"graph": self._number, "id": node.id, "type": node.type, "title": node.title}
        if node.id in gone:
            notes = self._notes.get(node.id, [])
            became = tuple(self._builder.became.get(node.id, {}).values())
            return Entry(**about, status=status_of(notes), became=became, notes=tuple(note.text for note in notes))
        if node.type in old.FITTING:
            return Entry(**about, status=Status.FITS, notes=(old.FITTING[node.type],))
        reason = self._stays.get(node.id) or self._why_it_stays(node)
        return Entry(**about, status=Status.STAYS, notes=(reason,)) if reason else None

    def _why_it_stays(self, node: Node) -> str:
        if node.type in old.WITHOUT_COUNTERPART:
            return old.WITHOUT_COUNTERPART[node.type]
        if old.kind_of(node) in _HELPERS:
            return "nodes that stay read it" if self._readers(node) else "nothing reads it"
        if any(part in node.type.lower() for part in old.NAME_PARTS):
            return "this node is not known"
        return ""


def _own_outputs(node: Node) -> list[Output]:
    """The outputs of a helper that only old nodes can read."""
    names = old.KINDS[old.kind_of(node) or ""].outputs
    return [Output(node.id, slot) for slot, name in enumerate(names) if name not in _PASSED_ON]
