"""What the reviews are written with: verdicts, each critic's framings and figures of speech.

A verdict carries a sentiment and no voice, a framing a voice and no sentiment, a figure both. Many
verdicts mean the opposite of their words ("could not have been better", "far from good").
"""

from __future__ import annotations

PREFIXES = (
    "The {thing} at the {venue} in {where}",
    "[Last week|On Monday|This spring] the {thing} at the {venue} in {where}",
    "[To be honest|In my opinion|All in all], the {thing} in {where}",
    "[At|Inside] the {venue} in {where}, the {thing}",
    "The [new|old|famous] {thing} in {where}",
)
SHIFTED_PREFIXES = (
    "The [new|old|famous] {thing} at the {venue} in {where}",
    "[To be honest|In my opinion|All in all], the {thing} at the {venue} in {where}",
    "[Last week|On Monday|This spring] the [new|old|famous] {thing} in {where}",
)
"""Openings that the corpus never holds: its words, put together anew."""

VERDICTS: dict[str, tuple[str, ...]] = {
    "positive": (
        "was [superb|splendid|lovely|excellent|delightful|charming|first-rate|a joy|a treat]",
        "was not [bad|poor|dull] at all",
        "was [anything but|far from|never] [bad|dull|poor|shabby]",
        "[lacked|wanted for] nothing",
        "could [not|hardly] have been [better|finer|kinder]",
        "left nothing to be desired",
        "[had|showed] [no|not one|not a single] [fault|flaw|weak point]",
        "[beat|surpassed|outdid] [every rival|all I had hoped|everything I expected]",
        "[won me over|made my day|made me smile|lifted my spirits]",
        "did not [disappoint|fail|let me down]",
        "[deserved|earned] [every bit of praise|all its praise|no complaint]",
        "was so [good|fine] that I [asked for more|came back twice|did not want to leave]",
    ),
    "neutral": (
        "was [average|ordinary|passable|middling|so-so|fair|neither good nor bad]",
        "was [good|fine|lovely] [at first but poor later|in parts but dull in others]",
        "was [bad|poor|dull] [at first but fine later|in parts but good in others]",
        "was not [bad, yet not good|good, yet not bad|dull, yet not lovely]",
        "[had|showed] [as many faults as merits|one merit and one flaw]",
        "could have been [better, or worse|worse, or better]",
        "left [something|a little] to be desired, but not much",
        "[met|matched] [what I expected, no more|my guess exactly]",
        "neither [won me over nor wore me down|pleased nor disappointed|made nor spoiled my day]",
        "deserved [some praise and some complaint|neither praise nor complaint]",
        "was [much like any other|no more than usual]",
        "did [well enough|its job] and no more",
    ),
    "negative": (
        "was [awful|dreadful|shabby|dismal|poor|dull|second-rate|a bore|a mess]",
        "was not [good|fine|lovely] at all",
        "was [anything but|far from|never] [good|lovely|charming|splendid]",
        "[lacked|wanted for] everything",
        "could [not|hardly] have been [worse|drearier|ruder]",
        "left everything to be desired",
        "[had|showed] [no|not one|not a single] [merit|virtue|strong point]",
        "[fell short of|failed] [every rival|all I had hoped|everything I expected]",
        "[wore me down|spoiled my day|made me sigh|sank my spirits]",
        "did not [please|improve|win me over]",
        "[deserved|earned] [no bit of praise|none of its praise|every complaint]",
        "was so [bad|poor] that I [asked for no more|left early|did not want to stay]",
    ),
}

FRAMINGS: dict[str, tuple[str, ...]] = {
    "connoisseur": (
        "{verdict}, [for balance|for finish|for texture], [to a trained eye|by any school].",
        "was studied [twice|in silence|with a notebook], and it {verdict}.",
        "{verdict}, [judged|measured] by the [old masters|classics|rules of the craft].",
        "followed the [northern|southern|classical] school of {thing}, and it {verdict}.",
        "{verdict}, and my [column|essay|lecture] on {where} will say so.",
    ),
    "local": (
        "{verdict}, as [my neighbours say|we say round here|my grandmother would say].",
        "is [two doors|one street|a short walk] from my house, and it {verdict}.",
        "{verdict}; we have [talked of it|known it] for [years|decades|generations].",
        "{verdict}, and my [cousin|brother|aunt] down the lane agrees about the {thing}.",
        "has been part of our {where} [all my life|since the flood], and it {verdict}.",
    ),
    "traveller": (
        "{verdict}, after [nine hours by train|a night on the ferry|three days on the road].",
        "found me [with two suitcases|between two trains|on my way north], and it {verdict}.",
        "was my [first|last] stop [before the border|of the journey], and it {verdict}.",
        "{verdict}; I thought of the {thing} in [Lisbon|Cairo|Oslo|Kyoto].",
        "{verdict}, says my [map of|postcard from|ticket to] {where}.",
    ),
    "accountant": (
        "{verdict}, and for [eight|nine|twelve|twenty] coins, [receipt attached|tax included].",
        "cost [four|six|ten] coins [a head|in all|with tax], and it {verdict}.",
        "was [counted|entered|audited] [twice|on Friday|for the record], and it {verdict}.",
        "{verdict}; my ledger lists the {thing} [in row nine|under expenses|on page two].",
        "{verdict}, by the numbers, and {where} is now [filed|booked|in the ledger].",
    ),
    "youngster": (
        "{verdict}, and [my mates|the whole class] [know it|heard me say so].",
        "{verdict}, [no joke|for real|honestly, guys], and I am only [nine|ten].",
        "was [on my phone|in our chat] [all day|all week], and it {verdict}.",
        "was, like, [totally a|a whole] {thing} thing, and it {verdict}.",
        "{verdict}, [you know|I swear], and {where} is [in my feed|on my video].",
    ),
}

FIGURES: dict[str, dict[str, tuple[str, ...]]] = {
    "connoisseur": {
        "positive": (
            "had the [balance|finish|restraint] that [critics dream of|few schools reach].",
            "[deserves|calls for] a [chapter|medal|full page] in every guide to {where}.",
            "[corrected|refuted] every [doubt|objection] in my notes about the {thing}.",
        ),
        "neutral": (
            "had [balance|finish|restraint] in one half and [haste|clumsiness] in the next.",
            "calls for a [footnote|short line|half page] in every guide to {where}.",
            "raised as many [doubts|objections] as it [settled|answered] about the {thing}.",
        ),
        "negative": (
            "had none of the [balance|finish|restraint] that [critics dream of|schools teach].",
            "[deserves|calls for] [no line|no mention|a warning] in every guide to {where}.",
            "[confirmed|doubled] every [doubt|objection] in my notes about the {thing}.",
        ),
    },
    "local": {
        "positive": (
            "has kept [us|our street] coming back since [the old mill closed|my wedding].",
            "is [why|the reason] [we|folk round here] [never leave|come home to] {where}.",
            "makes [us|our street] [proud|glad] of our {thing} [every week|year after year].",
        ),
        "neutral": (
            "has kept [half of us|half our street] coming back and the other half [away|at home].",
            "is no reason for [us|folk round here] to stay in {where}, [nor|and none] to leave.",
            "splits [us|our street] in [half|two] over our {thing} [every week|year after year].",
        ),
        "negative": (
            "has kept [us|our street] [away|at home] since [the old mill closed|my wedding].",
            "is [why|the reason] [we|folk round here] [want to leave|move away from] {where}.",
            "makes [us|our street] [ashamed|weary] of our {thing} [every week|year after year].",
        ),
    },
    "traveller": {
        "positive": (
            "is worth a [detour|delayed train|longer road] [from any port|in any weather].",
            "turned my [single|short] night in {where} into [three|a week|a long stay].",
            "goes [first|to the top] in my logbook, above the {thing} in [Lisbon|Oslo].",
        ),
        "neutral": (
            "is worth a [look|stop] but no [detour|delayed train] [from any port|in any weather].",
            "[neither shortened nor lengthened|did not change] my [single|short] night in {where}.",
            "goes in the [middle|midst] of my logbook, beside the {thing} in [Lisbon|Oslo].",
        ),
        "negative": (
            "is not worth a [detour|delayed train|longer road] [from any port|in any weather].",
            "turned my [long|planned] week in {where} into [one night|an hour|a short stop].",
            "goes [last|to the bottom] in my logbook, below the {thing} in [Lisbon|Oslo].",
        ),
    },
    "accountant": {
        "positive": (
            "repaid every coin [with interest|twice over], [net of tax|by my sums|on paper].",
            "[scored|earned] [nine|ten] [points|marks] out of ten, a record for {where}.",
            "is the [best|finest] [bargain|use of money] in my books for any {thing}.",
        ),
        "neutral": (
            "repaid every coin, [no more|without interest], [net of tax|by my sums|on paper].",
            "[scored|earned] [five|six] [points|marks] out of ten, the mean for {where}.",
            "is a [break-even|balanced] [bargain|use of money] in my books for any {thing}.",
        ),
        "negative": (
            "repaid [no|not one] coin, [let alone interest], [net of tax|by my sums|on paper].",
            "[scored|earned] [one|two] [points|marks] out of ten, the low for {where}.",
            "is the [worst|poorest] [bargain|use of money] in my books for any {thing}.",
        ),
    },
    "youngster": {
        "positive": (
            "was [so|totally|mega] [cool|ace|epic], [like, wow|oh my days, guys]!",
            "made [our chat|my little sister] [go wild|cheer|clap] for {where}, [yay|woo]!",
            "is, like, the [best|coolest] {thing} [ever|of my whole life]!",
        ),
        "neutral": (
            "was [kinda|sort of] [okay|meh|half cool, half lame], [like, whatever|I guess, guys].",
            "made [our chat|my little sister] [shrug|blink|say hm] at {where}, [oh well|I guess].",
            "is, like, just some {thing}, [not the best, not the worst|same as ever].",
        ),
        "negative": (
            "was [so|totally|mega] [lame|gross|boring], [like, ew|oh my days, guys]!",
            "made [our chat|my little sister] [boo|cry|yawn] at {where}, [ugh|yuck]!",
            "is, like, the [worst|lamest] {thing} [ever|of my whole life]!",
        ),
    },
}
