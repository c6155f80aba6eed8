"""The words of the story world: things, turns, endings, clichés and the voices that tell them."""

from __future__ import annotations

from dataclasses import dataclass

KINDS: dict[str, tuple[str, ...]] = {
    "light": ("lamp", "lantern", "candle", "mirror"),
    "vessel": ("kettle", "jug", "chest", "basket"),
    "paper": ("map", "letter", "diary", "ledger"),
    "sound": ("bell", "flute", "drum", "whistle"),
    "wear": ("ring", "cloak", "crown", "glove"),
    "works": ("clock", "compass", "key", "spindle"),
}
"""The things of the corpus, by the kind that decides which turns fit them."""

UNSEEN_KINDS: dict[str, tuple[str, ...]] = {
    "light": ("fog lamp",),
    "vessel": ("tea chest",),
    "paper": ("sea map",),
    "sound": ("hand bell",),
    "wear": ("silk cloak",),
    "works": ("tower clock",),
}
"""Things that the corpus never tells of; whoever knows their last word can tell their kind."""

TRADES = (
    "baker", "barber", "carter", "cobbler", "cooper", "ferryman", "fiddler", "gardener", "glazier",
    "miller", "nurse", "painter", "pedlar", "potter", "sexton", "shepherd", "tailor", "teacher",
)  # fmt: skip

OPENINGS = (
    "The {trade} {hero} [found|bought|dug up|was given] a {thing} in {where}.",
    "In {where}, [a {trade} named|the {trade}] {hero} [found|inherited|borrowed] a {thing}.",
    "[One spring|Last winter|Years ago], {hero} the {trade} [found|won] a {thing} in {where}.",
    "{hero}, a {trade} [from|of] {where}, [kept|mended|could not sell] a {thing}.",
)
UNSEEN_OPENINGS = (
    "Nobody in {where} [knew|asked] why the {trade} {hero} [owned|carried] a {thing}.",
    "[A storm|The tide] left a {thing} at the door of {hero}, {trade} in {where}.",
)
"""Openings that the corpus never has."""

QUIET, DARING = ("luck", "loss"), ("secret", "bargain", "peril", "magic")
"""What kind of trouble a turn makes; an ending resolves some of them."""


@dataclass(frozen=True)
class Turn:
    """What happens to the thing.

    Attributes:
        name: what the idea is called by.
        trouble: one of `QUIET` or `DARING`.
        kinds: the kinds of things it fits.
        wordings: a template with the slot `{thing}`.
    """

    name: str
    trouble: str
    kinds: tuple[str, ...]
    wordings: str

    @property
    def daring(self) -> bool:
        """Returns whether it risks more than the quiet ones do."""
        return self.trouble in DARING


@dataclass(frozen=True)
class Ending:
    """What the hero does about it.

    Attributes:
        name: what the idea is called by.
        troubles: those it resolves.
        wordings: a template that begins with the slot `{hero}`.
    """

    name: str
    troubles: tuple[str, ...]
    wordings: str


TURNS = (
    Turn("coins", "luck", ("vessel", "paper", "works"),
         "the {thing} [was full of|hid] [old coins|silver]"),
    Turn("prize", "luck", ("light", "sound", "wear"),
         "the {thing} won [first prize|a ribbon] at the fair"),
    Turn("buyer", "luck", ("paper", "wear", "works"),
         "a [duke|rich collector] offered [ten cows|a fortune] for the {thing}"),
    Turn("crowd", "luck", ("light", "vessel", "sound"),
         "[half the county|everyone] came to [see|admire] the {thing}"),
    Turn("stolen", "loss", ("vessel", "wear", "works"),
         "a [thief|rascal] stole the {thing} [by night|before breakfast]"),
    Turn("broken", "loss", ("light", "vessel", "sound"),
         "the {thing} [cracked|broke] on the [doorstep|cold floor]"),
    Turn("drowned", "loss", ("paper", "sound", "wear"),
         "the {thing} [slipped|tumbled] into the [deep harbour|mill pond]"),
    Turn("claimed", "loss", ("light", "paper", "works"),
         "a [widow|stranger] claimed the {thing} [by old right|as an heirloom]"),
    Turn("door", "secret", ("light", "works"),
         "the {thing} [led|pointed] to a hidden [door|stair]"),
    Turn("confession", "secret", ("vessel", "paper"),
         "the {thing} [held|gave up] the [mayor's|judge's] confession"),
    Turn("heir", "secret", ("paper", "wear"),
         "the {thing} [named|belonged to] the lost [heir|prince]"),
    Turn("code", "secret", ("sound", "works"),
         "the {thing} [beat out|sounded] a [spy's|smuggler's] code"),
    Turn("promised", "bargain", ("vessel", "sound"),
         "the {thing} had been promised to [the moon|the north wind|the sea]"),
    Turn("price", "bargain", ("light", "works"),
         "the {thing} [asked|wanted] a [memory|year] for every answer"),
    Turn("king", "bargain", ("sound", "wear"),
         "the {thing} made its owner king for [one day|a week], [at a price|on loan]"),
    Turn("wager", "bargain", ("vessel", "paper"),
         "the {thing} was [staked|promised] in a wager with [death|winter]"),
    Turn("wolves", "peril", ("light", "sound"),
         "the {thing} [drew|called] [wolves|bears] from the hills"),
    Turn("fire", "peril", ("light", "vessel"),
         "the {thing} set the [granary|town hall|school] on fire"),
    Turn("storm", "peril", ("vessel", "sound"),
         "the {thing} [let loose|brought on] a [storm|flood]"),
    Turn("trap", "peril", ("wear", "works"),
         "the {thing} [snapped shut|closed] on the [sheriff's|captain's] hand"),
    Turn("backwards", "magic", ("paper", "works"),
         "the {thing} made [time|every day] run backwards"),
    Turn("unseen", "magic", ("light", "wear"),
         "whoever [touched|held] the {thing} [turned invisible|vanished]"),
    Turn("future", "magic", ("paper", "works"),
         "the {thing} foretold [tomorrow|the week] [word for word|hour by hour]"),
    Turn("awake", "magic", ("sound", "wear"),
         "the {thing} woke the [sleepers|kings] under the [church|hill]"),
)  # fmt: skip

ENDINGS = (
    Ending("home", ("luck", "loss"), "{hero} [went|walked] home [in peace|content]"),
    Ending("dream", (), "{hero} woke up and it was [only|all] a dream"),
    Ending("wedding", ("luck", "secret"), "{hero} married [the miller|a sailor] [in May|at once]"),
    Ending("lesson", ("luck", "loss", "magic"),
           "{hero} learned to [want|ask for] less [for good|at last]"),
    Ending("rich", ("luck",), "{hero} bought [the inn|a farm] [for cash|outright]"),
    Ending("shared", ("luck", "bargain"),
           "{hero} shared it with the [neighbours|poor]"),
    Ending("court", ("luck", "loss", "secret", "bargain"),
           "{hero} took it to [court|the queen]"),
    Ending("forgave", ("loss", "secret", "magic"),
           "{hero} forgave [everyone|the whole town]"),
    Ending("rebuilt", ("loss", "peril"), "{hero} built [another|a better one] by hand"),
    Ending("truth", ("loss", "secret"),
           "{hero} told the truth [in the market|to everybody]"),
    Ending("riddle", ("loss", "bargain", "peril", "magic"),
           "{hero} won [everything|it all] back with a [riddle|card trick]"),
    Ending("waves", ("bargain", "peril", "magic"),
           "{hero} threw it into the [lake|waves] [at midnight|and ran]"),
    Ending("paid", ("secret", "bargain", "magic"),
           "{hero} paid with [a shadow|an old name] and [left|was free]"),
    Ending("led", ("secret", "peril"),
           "{hero} led [everyone|the children] [over the hills|away by boat]"),
    Ending("song", ("luck", "peril", "magic"),
           "{hero} sang until [all was still|morning came]"),
    Ending("watch", ("secret", "bargain", "peril"),
           "{hero} kept watch for [seven|a hundred] years"),
)  # fmt: skip

CLICHES = (
    ("coins", "home"), ("stolen", "dream"), ("crowd", "wedding"), ("prize", "lesson"),
    ("broken", "home"), ("buyer", "rich"), ("wolves", "dream"), ("drowned", "lesson"),
    ("coins", "wedding"), ("claimed", "dream"), ("crowd", "home"), ("backwards", "dream"),
)  # fmt: skip
"""Ideas that are told of anything, the tritest first."""

TELLERS: dict[str, tuple[str, ...]] = {
    "plain": (
        "[Then|One night|At dawn|A week later] {turn}[, and|. In the end] {ending}.",
        "[Before long|That evening] {turn}[. So|. Afterwards] {ending}.",
    ),
    "breathless": (
        "[And suddenly|Oh, and then|Guess what], {turn}! [And then|Just like that] {ending}!",
        "[Believe it or not|Listen], {turn}! [And wow,|At once] {ending}!",
    ),
    "wry": (
        "[Naturally|Of course|As usual], {turn}; [predictably|being sensible], {ending}.",
        "[Inevitably|By custom], {turn}; [with dignity|having no better plan], {ending}.",
    ),
    "grandmother": (
        "[They say|My mother swore] that {turn}[, my dears, until|, little ones, so] {ending}.",
        "[Once upon a time|Long, long ago] {turn}, [and, child,|and, bless us,] {ending}.",
    ),
    "gloomy": (
        "[Alas|Sadly|Worst of all], {turn}, and [with a sigh|in tears] {ending}.",
        "[To nobody's comfort|Worse still], {turn}, and [wearily|in the rain] {ending}.",
    ),
}
"""Voices of telling, each at home in every idea."""
