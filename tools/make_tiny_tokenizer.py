"""Train the small byte-level BPE tokenizer that ships with the tiny presets: ``python tools/make_tiny_tokenizer.py``.

Its corpus is written here, so the file can be made again bit for bit. Words that robot instructions use become single
tokens (length is what costs on a CPU); any other text falls back to bytes. Each family adds its special tokens itself.
"""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = Path(__file__).parents[1] / "src/vlm4vla/backbones/tiny/tokenizer.json"

FRAME = ["What action should the robotic arm take to", "user", "assistant", "system", "You are a helpful assistant."]
VERBS = (
    "open close press push pull turn slide move rotate lift grasp pick place put insert unplug plug remove hit kick "
    "throw sweep stack store lower raise reach touch lock unlock twist dial hammer assemble disassemble unscrew screw "
    "fold pour wipe drop hold release tap knock shift take get bring stick shove"
).split()
NOUNS = (
    "drawer window faucet door handle button lever peg puck block ball basket nail hammer ring hole plate bowl cup "
    "mug soup can box bin shelf dial nut coffee machine wall goal net stick hook side slot switch lightbulb led light "
    "table slider stove pot pan moka microwave cabinet tray caddy book towel cloth spoon fork knife carrot eggplant "
    "cube sauce tomato ketchup butter milk juice pudding cheese cream yellow red green blue pink black white purple "
    "orange brown wooden small large big target marker position point tap lid cap bottle object gripper arm robot thing"
).split()
SMALL = (
    "the a an to of on in into onto from with and or at by up down left right top bottom back front over behind under "
    "inside outside toward away off out it its then both all other next near far middle center clockwise "
    "counterclockwise sideways sideway along around against through while not until first second one two three"
).split()
QUESTIONS = (
    "which where what is are there how many color of far close answer yes no question image picture between distance "
    "meters point points coordinates larger smaller than true false"
).split()


def corpus() -> list[str]:
    lines = FRAME * 40
    lines += [f"{start}{verb} the {noun}" for start in ("", " ") for verb in VERBS for noun in NOUNS]
    lines += [f" {word} {other}" for word in SMALL for other in SMALL]
    lines += [f"{word} {word.capitalize()}" for word in QUESTIONS for _ in range(20)]
    lines += [f"{i} {i / 10:.1f} ({i}, {i + 1})" for i in range(100)]
    return lines


def main() -> None:
    # Merges stay within one word with its leading space, a digit, or a run of punctuation or white space.
    split = Regex(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), min_frequency=2
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(OUT), pretty=False)
    print(f"{OUT.name}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
