"""The export commands of ``rfprm``: thin wrappers over the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rfprm_export.choices import AttentionChoice, ModelFormat, Precision
from rfprm_export.preset import ReadingOptions
from rfprm_runtime.cli.options import ProgressOption

# Options that several commands share.
ArtifactOutput = Annotated[
    Path, typer.Option("--output", "-o", help="The artifact folder to write.")
]
FamilyOption = Annotated[
    str | None, typer.Option(help="Format of a published PRM, if its config does not tell.")
]
SeparatorOption = Annotated[
    str | None,
    typer.Option(help=r"The text after each step that a token classifier was trained with: '\n'."),
]
SystemPromptOption = Annotated[
    str | None, typer.Option(help="System prompt that a sequence classifier was trained with.")
]
ChatTemplateOption = Annotated[
    Path | None, typer.Option(help="File with a sequence classifier's chat template (Jinja).")
]
CHECKPOINT_HELP = "A training checkpoint, a published PRM's folder, or org/name[@revision]."
BaseOption = Annotated[
    str | None,
    typer.Option(help="The base model, if it is not found by itself: a path, or org/name."),
]
VerifyOption = Annotated[
    bool, typer.Option(help="Compare with the reference network first; write only if faithful.")
]
OverwriteOption = Annotated[bool, typer.Option(help="Replace an existing artifact.")]


def reading_options(
    family: str | None,
    step_separator: str | None,
    system_prompt: str | None,
    chat_template: Path | None,
) -> ReadingOptions:
    """The options of the command line. Shells pass a line end as ``\\n``."""
    if step_separator is not None:
        step_separator = step_separator.replace("\\n", "\n").replace("\\t", "\t")
    return ReadingOptions(family, step_separator, system_prompt, chat_template)


def export(
    checkpoint: Annotated[str, typer.Argument(help=CHECKPOINT_HELP)],
    output: ArtifactOutput,
    precision: Annotated[Precision, typer.Option(help="Of weights and arithmetic.")] = "fp32",
    format: Annotated[
        ModelFormat | None,
        typer.Option(help="Format to write; by default native for int16 and int8, otherwise onnx."),
    ] = None,
    attention: Annotated[
        AttentionChoice,
        typer.Option(help="ONNX Runtime's own op, fast on a CPU, or the standard one."),
    ] = "auto",
    family: FamilyOption = None,
    step_separator: SeparatorOption = None,
    system_prompt: SystemPromptOption = None,
    chat_template: ChatTemplateOption = None,
    base: BaseOption = None,
    verify: VerifyOption = True,
    verify_traces: Annotated[
        Path | None, typer.Option(help="JSONL traces to verify on; shipped ones by default.")
    ] = None,
    overwrite: OverwriteOption = False,
    progress: ProgressOption = None,
) -> None:
    """Export a checkpoint to an artifact: merge, build the graph, verify, write."""
    from rfprm_export.artifact_writer import export_artifact
    from rfprm_runtime.artifact.manifest import manifest_digest
    from rfprm_runtime.cli.printing import print_manifest
    from rfprm_runtime.ground.progress import shown_stages

    with shown_stages(progress) as told:
        manifest = export_artifact(
            checkpoint,
            output,
            format=format,
            precision=precision,
            attention=attention,
            reading=reading_options(family, step_separator, system_prompt, chat_template),
            base=base,
            verify=verify,
            verify_traces=verify_traces,
            overwrite=overwrite,
            progress=told,
        )
    print_manifest(Console(highlight=False), manifest, manifest_digest(output))
    typer.echo(f"written: {output}")


def export_qwen2_layout(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint on a Qwen2 backbone, as for rfprm export.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    family: FamilyOption = None,
    step_separator: SeparatorOption = None,
    base: BaseOption = None,
    progress: ProgressOption = None,
) -> None:
    """Write a checkpoint as a Qwen2ForProcessRewardModel folder, which vLLM and others load."""
    from rfprm_export.checkpoint import load_prm
    from rfprm_export.qwen2_layout import write_qwen2_layout
    from rfprm_runtime.cli.printing import print_rows, source_rows
    from rfprm_runtime.ground.progress import shown_stages

    with shown_stages(progress) as told:
        reading = reading_options(family, step_separator, None, None)
        prm = load_prm(checkpoint, reading=reading, base=base)
        step_id = write_qwen2_layout(prm, output, told)
    print_rows(Console(highlight=False), source_rows(prm.manifest.source))
    typer.echo(f"written: {output}, where <extra_0> has the id {step_id} (vLLM: step_tag_id)")


def export_triton(
    artifact: Annotated[
        str,
        typer.Argument(help="An artifact with a graph or a TensorRT engine; also org/name."),
    ],
    repository: Annotated[
        Path, typer.Option("--output", "-o", help="The model repository to write into.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the model; by default the artifact's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing model.")] = False,
) -> None:
    """Write an artifact to a model repository of Triton Inference Server."""
    from rfprm_export.triton import write_triton_model
    from rfprm_runtime.hub.artifacts import find_artifact

    folder = write_triton_model(find_artifact(artifact), repository, name=name, overwrite=overwrite)
    typer.echo(f"written: {folder}")


def demo(
    artifact: Annotated[
        Path, typer.Option("--artifact", "-a", help="Folder for the shipped PRM's artifact.")
    ] = Path("artifacts/smollm2-135m-gsm8k"),
    base: BaseOption = None,
    progress: ProgressOption = None,
) -> None:
    """Build the shipped PRM for this CPU (once), then score example traces."""
    from rfprm_export.shipped import ensure_artifact
    from rfprm_runtime.cli.printing import print_score
    from rfprm_runtime.ground.progress import shown_stages
    from rfprm_runtime.scorer import Scorer
    from rfprm_runtime.traces.sources import example_traces_path, read_trajectories

    console = Console(highlight=False)
    with shown_stages(progress) as told:
        built = ensure_artifact(artifact, base=base, progress=told)
    console.print(f"{'built and verified' if built else 'found'} {artifact}\n", markup=False)
    trajectories = read_trajectories(example_traces_path())
    with Scorer.load(artifact) as scorer:
        scores = scorer.score_batch(trajectories)
    for trajectory, score in zip(trajectories, scores, strict=True):
        print_score(console, trajectory, score)
