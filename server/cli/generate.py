"""`fulcrum generate`: a trained model continues a prompt, here and now."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from device_agent.contracts import Blame, FulcrumError
from server.cli.options import DEFAULT_HOME, DEFAULT_SERVER, HomeOption, JsonOption, ServerOption
from server.cli.trained import SOURCE_HELP, Trained, load

if TYPE_CHECKING:
    from trainer.generation import Engine, Handle, SamplingParams

_USUAL_TOKENS = 128
_INTERRUPTED = 130


class BadPrompt(FulcrumError):
    """There is no prompt, or it is no text."""

    blame, slug = Blame.USER, "bad-prompt"


def generate(
    source: Annotated[str, typer.Argument(metavar="CHECKPOINT_OR_RUN", help=SOURCE_HELP)],
    prompt: Annotated[str, typer.Argument(help="What to continue; - reads it from standard input.")] = "-",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Tokens at most; else {_USUAL_TOKENS}, or what the context takes.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="0 takes the likeliest token each time.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Keep the k likeliest tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens whose probabilities reach p.")] = 1.0,
    min_p: Annotated[float, typer.Option(min=0, max=1, help="Keep tokens this likely beside the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Of tokens that were read or said; 1 for none.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer; repeatable.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=1024, help="Answers; the prompt is read once.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal answers.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's message, answered by an assistant.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="With --chat: what the system says before.")] = None,
    context: Annotated[int, typer.Option(min=2, help="Positions that prompt and answer may have together.")] = 4096,
    quantised: Annotated[bool, typer.Option("--quantised", help="Speak with the phone's 4-bit numerics.")] = False,
    json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Continue a prompt with a trained model, as the tokens come.

    A prompt is read as the beginning of a document. Figures go to standard error; with --json all goes to standard
    output when it is done. Ctrl-C ends the answer and leaves what was said.

    Examples:

        fulcrum generate runs/9a1b/sealed/5fbd... "def main("

        fulcrum generate 9a1b... "Once upon" --n 4 --temperature 0.8 --top-p 0.95 --seed 7

        fulcrum generate 9a1b... --chat "Who are you?" --quantised

        git diff | fulcrum generate 9a1b... --max-tokens 40 --json
    """
    from pydantic import ValidationError

    from trainer.generation import Engine, SamplingParams
    from trainer.tokenizer import refuse_overlong

    said = _text(prompt)
    trained = load(source, home, server, quantised=quantised)
    refuse_overlong(trained.tokenizer, said, context)
    tokens = _tokens(trained, said, chat, system)
    room = max(1, context - len(tokens))
    try:
        params = SamplingParams(
            max_tokens=min(_USUAL_TOKENS, room) if max_tokens is None else max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop=tuple(stop or ()),
            stop_tokens=trained.template.ends,
            seed=seed,
        )
    except ValidationError as wrong:
        from server.cli.words import mistakes

        raise typer.BadParameter(mistakes(wrong).strip()) from wrong
    engine = Engine(trained.model, tokenizer=trained.tokenizer, context=context, slots=min(n, 16))
    _answer(engine, tokens, params, n, json)


def _text(prompt: str) -> str:
    """The prompt, from the command line or from standard input."""
    text = sys.stdin.buffer.read() if prompt == "-" else prompt.encode(errors="surrogateescape")
    try:
        decoded = text.decode()
    except UnicodeDecodeError as wrong:
        raise BadPrompt(f"The prompt is not UTF-8: {wrong}.", advice="Send text.") from wrong
    if not decoded:
        raise BadPrompt("The prompt is empty.", advice="Write one, or send it to standard input.")
    return decoded


def _tokens(trained: Trained, text: str, chat: bool, system: str | None) -> list[int]:
    from trainer.chat import Message
    from trainer.tokenizer import end_of_text

    if system is not None and not chat:
        raise typer.BadParameter("there is a system only in a --chat", param_hint="--system")
    if chat:
        before = [] if system is None else [Message(role="system", content=system)]
        return trained.template.encode([*before, Message(role="user", content=text)])
    # Documents begin with the end of text in training, so a prompt does.
    return [end_of_text(trained.tokenizer), *trained.tokenizer.encode(text, add_special_tokens=False).ids]


def _answer(engine: "Engine", tokens: list[int], params: "SamplingParams", n: int, json: bool) -> None:
    start = time.perf_counter()
    handles = [engine.submit(tokens, params)] if n == 1 else engine.submit_group(tokens, params, n)
    first: float | None = None
    interrupted = False
    try:
        for number, handle in enumerate(handles, start=1):
            if n > 1 and not json:
                typer.secho(f"--- {number} of {n}", dim=True)
            for event in handle:
                first = first or time.perf_counter() - start
                if not json:
                    typer.echo(event.text, nl=False)
            if not json:
                typer.echo()
    except KeyboardInterrupt:
        interrupted = True
        typer.echo()
    figures = _figures(handles, time.perf_counter() - start, first)
    if json:
        _print(handles, params, figures, interrupted)
    else:
        typer.secho(_words(figures), dim=True, err=True)
    if interrupted:
        raise typer.Exit(_INTERRUPTED)


def _figures(handles: "list[Handle]", seconds: float, first: float | None) -> dict[str, Any]:
    new = sum(len(handle.completion.tokens) for handle in handles)
    return {
        "prompt_tokens": handles[0].completion.prompt_tokens,
        "new_tokens": new,
        "seconds": seconds,
        "seconds_to_first_token": first,
        "tokens_per_second": new / seconds,
    }


def _words(figures: dict[str, Any]) -> str:
    first = figures["seconds_to_first_token"]
    began = "" if first is None else f", the first after {1000 * first:.0f} ms"
    return (
        f"{figures['prompt_tokens']} tokens read, {figures['new_tokens']} said{began},"
        f" {figures['tokens_per_second']:.1f} a second"
    )


def _print(handles: "list[Handle]", params: "SamplingParams", figures: dict[str, Any], interrupted: bool) -> None:
    from json import dumps

    answers = [
        {
            "text": answer.text,
            "tokens": answer.tokens,
            "logprobs": answer.logprobs,
            "finish": answer.finish or ("cancelled" if interrupted else None),
        }
        for answer in (handle.completion for handle in handles)
    ]
    asked = params.model_dump(exclude={"logit_bias", "logprobs"})
    typer.echo(dumps({"answers": answers, "parameters": asked, **figures}, ensure_ascii=False, indent=2))
