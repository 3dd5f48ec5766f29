"""``vlm4vla backbones | train | eval | serve ...``"""

import argparse
from pathlib import Path
from typing import Any

from vlm4vla.cli.common import add_group, add_verb, names_of, print_json, print_lines, say


def declare(verbs: Any) -> None:
    group = add_group(verbs, "backbones", "VLM families and their conformance checks")
    add_verb(group, "list", _backbones_list, "families that this installation knows").add_argument(
        "--json", action="store_true"
    )
    check = add_verb(group, "check", _backbones_check, "run the conformance checks on a family's tiny preset")
    check.add_argument("name")
    check.add_argument("--json", action="store_true")
    add_verb(
        group, "table", _backbones_table, "the paper's models: parameters counted here beside the paper's"
    ).add_argument("--json", action="store_true")
    inspect = add_verb(verbs, "inspect", _inspect, "what a VLM is made of and what it sees, without its weights")
    inspect.add_argument("backbone", help="FAMILY, FAMILY:PRESET, a Hugging Face id, or a folder")
    inspect.add_argument("--instruction", default=None, help="the task that the prompt is written for")
    inspect.add_argument("--image", type=Path, default=None, help="picture to show it (default: a test card)")
    inspect.add_argument("--image-size", type=int, default=None, help="side of the square that the model sees")
    inspect.add_argument("--view-size", type=int, default=None, help="side of the pictures that the camera delivers")
    inspect.add_argument("--revision", default=None, help="commit, tag or branch on the hub")
    inspect.add_argument("--tokenizer", default=None, help="folder or id of the real tokenizer, for a preset")
    inspect.add_argument("--freeze", nargs="*", default=[], help="groups to count as frozen")
    inspect.add_argument("--png", type=Path, default=None, help="write what the model sees to this file")
    inspect.add_argument("--json", action="store_true")
    add_verb(verbs, "train", _train, "adapt a VLM on robot data: policy folder out", overrides=True).add_argument(
        "config"
    )
    evaluate = add_verb(verbs, "eval", _eval, "closed-loop rollouts: rows out", overrides=True)
    evaluate.add_argument(
        "policy", help="policy folder, Hugging Face id, ws://HOST:PORT, or a YAML file of all settings"
    )
    evaluate.epilog = "Settings follow as --bench NAME --out DIR --execute STEPS [--tasks '[a, b]'] [--episodes N] ..."
    summary = add_verb(verbs, "summary", _summary, "what an evaluation found: rates and chains with intervals")
    summary.add_argument("folder", type=Path, help="the --out of an evaluation")
    summary.add_argument("--json", action="store_true")
    export = add_verb(verbs, "export", _export, "the VLM inside a policy, as a folder that training can start from")
    export.add_argument("policy", help="policy folder or Hugging Face id")
    export.add_argument("--out", type=Path, required=True)
    serve = add_verb(verbs, "serve", _serve, "policy server (openpi and vla-eval protocols)")
    serve.add_argument("policy", help="policy folder or Hugging Face id")
    serve.add_argument("--host", default="127.0.0.1", help="address to bind (default: loopback only)")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--batch", type=int, default=4, help="the one padded batch shape")
    serve.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    serve.add_argument(
        "--tokens",
        type=int,
        default=None,
        help="fixed text length; default: the shortest prompt rounded up to 32, plus 32",
    )


def _backbones_list(a: argparse.Namespace, _rest: list[str]) -> int:
    print_lines([{"name": name} for name in names_of("backbones")], a.json, lambda line: str(line["name"]))
    return 0


def _backbones_check(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.backbones import conformance

    results = conformance.check(a.name)
    lines = [{"check": name, "passed": passed, "found": found} for name, passed, found in results]
    print_lines(lines, a.json, lambda r: f"{'pass' if r['passed'] else 'FAIL'}  {r['check']}: {r['found']}")
    return 0 if all(passed for _, passed, _ in results) else 1


def _backbones_table(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla import anatomy

    rows = anatomy.table()
    if a.json:
        print_json(rows)
    else:
        print_lines([{"text": text} for text in anatomy.table_text(rows)], False, lambda line: str(line["text"]))
    return 0


def _inspect(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla import anatomy

    config = anatomy.parse(a.backbone, a.image_size, a.view_size, a.revision)
    image = anatomy.read_picture(a.image) if a.image else None
    found = anatomy.look(config, a.instruction or anatomy.INSTRUCTION, image, a.tokenizer, a.freeze)
    if a.png:
        anatomy.write_picture(found.seen, a.png)
    if a.json:
        print_json(found.to_dict())
    else:
        print_lines([{"text": text} for text in found.text()], False, lambda line: str(line["text"]))
    return 0


def _train(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.schemas import TrainConfig
    from vlm4vla.train import run

    settings = config.load(TrainConfig, Path(a.config), rest)
    run.train(settings)
    say(f"{settings.out / 'policy'}")
    return 0


def _eval(a: argparse.Namespace, rest: list[str]) -> int:
    from vlm4vla import config
    from vlm4vla.rollout import runner
    from vlm4vla.schemas import EvalConfig
    from vlm4vla.study import summary

    if a.policy.endswith((".yaml", ".yml")):
        settings = config.load(EvalConfig, Path(a.policy), rest)
    else:
        settings = config.load(EvalConfig, None, rest, policy=a.policy)
    policy = None
    if not settings.policy.startswith(("ws://", "wss://", "builtin:")):
        policy = _load_policy(settings.policy, settings.threads)
    runner.evaluate(settings, policy, progress=True)
    for sentence in summary.sentences(summary.summary(settings.out)):
        say(sentence)
    say(f"{settings.out / 'rows.jsonl'}")
    return 0


def _summary(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.study import summary

    lines = summary.summary(a.folder)
    if a.json:
        print_lines(lines, True, str)
    else:
        print_lines([{"text": text} for text in summary.sentences(lines)], False, lambda line: str(line["text"]))
    return 0


def _export(a: argparse.Namespace, _rest: list[str]) -> int:
    _load_policy(a.policy, 0).save_vlm(a.out)
    say(f"{a.out}")
    return 0


def _serve(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla.rollout import server

    policy = _load_policy(a.policy, 0)
    server.serve_forever(policy, a.batch, a.tokens, a.host, a.port, announce=say, precision=a.precision)
    return 0


def _load_policy(name: str, threads: int) -> Any:
    import torch

    from vlm4vla.policy import Policy

    if threads:
        torch.set_num_threads(threads)
    policy = Policy.from_pretrained(name)
    return policy.to("cuda") if torch.cuda.is_available() else policy
