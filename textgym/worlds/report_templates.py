"""The words of the report world: topics, report sentences, and how each writer summarises."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Something that happened.

    Attributes:
        key: the one word that names it; no other topic's sentences hold it.
        noun: what a summary calls it.
        unit: what is counted.
        lead: the opening of the report's first sentence.
    """

    key: str
    noun: str
    unit: str
    lead: str


TOPICS = (
    Topic("barn", "barn fire", "bales", "A barn [caught fire|burned down|went up in flames]"),
    Topic("bridge", "bridge repair", "bolts", "A bridge [was repaired|was mended|reopened]"),
    Topic("bakery", "bakery opening", "loaves", "A bakery [opened|opened its doors|started up]"),
    Topic("flood", "flood", "sandbags", "A flood [came|struck|rose overnight]"),
    Topic("choir", "choir concert", "tickets", "A choir [sang|gave a concert|performed]"),
    Topic("market", "market fair", "stalls", "A market [was held|drew a crowd|took place]"),
    Topic("orchard", "orchard harvest", "baskets", "An orchard [was harvested|was picked clean]"),
    Topic("ferry", "ferry launch", "passengers", "A ferry [was launched|set sail|left the dock]"),
    Topic("school", "school race", "pupils", "A school [held a race|ran a race|raced]"),
    Topic("theft", "theft", "coins", "A theft [was reported|shook people|was discovered]"),
    Topic("library", "library sale", "books", "A library [held a sale|sold its stock]"),
    Topic("mill", "mill strike", "workers", "A mill [went on strike|stood still|stopped work]"),
    Topic("tunnel", "tunnel dig", "metres", "A tunnel [was dug|was finished|broke through]"),
    Topic("museum", "museum show", "visitors", "A museum [opened a show|put on a show]"),
    Topic("festival", "festival", "lanterns", "A festival [lit up the streets|was held|began]"),
    Topic("storm", "storm", "roofs", "A storm [hit|passed over houses|raged all night]"),
    Topic("auction", "auction", "paintings", "An auction [was held|drew bidders|took place]"),
    Topic("clinic", "clinic visit", "patients", "A clinic [opened its doors|saw a visit]"),
    Topic("garden", "garden contest", "flowers", "A garden [won a contest|was judged]"),
    Topic("rescue", "rescue", "sheep", "A rescue [was mounted|succeeded|took place]"),
    Topic("parade", "parade", "drummers", "A parade [marched by|was held|filled the streets]"),
    Topic("quarry", "quarry blast", "tonnes", "A quarry [was blasted|shook with a blast]"),
    Topic("wedding", "wedding", "guests", "A wedding [was held|was celebrated|took place]"),
    Topic("tram", "tram test", "riders", "A tram [was tested|made a test run|rolled out]"),
)

SHIFTED_TOPICS = (
    Topic("comet", "comet sighting", "telescopes", "A comet [was sighted|blazed past|appeared]"),
    Topic("circus", "circus visit", "acrobats", "A circus [came to stay|pitched its tent]"),
    Topic("brewery", "brewery merger", "barrels", "A brewery [was merged|changed hands]"),
    Topic("regatta", "regatta", "rowers", "A regatta [got under way|was rowed|was cheered]"),
    Topic("landslip", "landslip", "boulders", "A landslip [blocked a road|was cleared]"),
    Topic("eclipse", "eclipse", "onlookers", "An eclipse [darkened the sky|was watched]"),
    Topic("vineyard", "vineyard tasting", "bottles", "A vineyard [poured its wine|was toured]"),
    Topic("hospital", "hospital move", "beds", "A hospital [was moved|packed up|changed sites]"),
)
"""What only the out-of-distribution split reports on; the corpus knows none of these words."""

LEAD = "{lead} in {where}."

# Each names one fact; the order in the report is random.
WHO = (
    "{who} [was in charge|led the work|gave the orders|took the lead|looked after everything].",
    "[The person in charge was|The one who led it was|At the head of it all was] {who}.",
    "[It fell to|It was up to] {who} to [lead|run things|give the orders|see it through].",
)
WHEN = (
    "[It|It all|Things|Everything] [began|started|got going] at {when}.",
    "[The clock showed|The time was] {when} [when it began|when it started|at the start].",
    "[People remember|Records show] that it [began|started] at {when}.",
)
AMOUNT = (
    "[In all|In total|Altogether|By the end], {amount} {unit} [were counted|were noted].",
    "[Someone counted|A clerk counted|The tally was] {amount} {unit}.",
    "[The books show|The final count was] {amount} {unit}.",
)
FILLER = (
    "The weather was [fine|mild|grey|poor|as usual].",
    "[Neighbours|Locals|Children|Old friends] [stood and watched|talked of little else].",
    "[Some|Many|Few] [were surprised|had expected it|will forget it].",
    "[A dog barked|Music played|Bells rang|Tea was served] [for a while|the whole time].",
    "The [council|paper|mayor] [said nothing|was pleased|promised more].",
)

# Templates of one writer are drawn with equal probability. Those naming all five facts are rare.
CONCISE = (
    "[The|A] {noun} in {where}.",
    "[The|A] {noun} in {where}, led by {who}.",
    "{who} led the {noun} in {where}.",
    "{who} ran the {noun}, with {amount} {unit}.",
    "The {noun} in {where} [began|started] at {when}.",
    "The {noun} [began|started] at {when}, led by {who}.",
    "The {noun} in {where} [counted|came to] {amount} {unit}.",
    "The {noun} in {where}: {amount} {unit}, from {when}.",
    "At {when}, {who} [led|ran] the {noun} in {where}.",
    "{who} [led|ran] the {noun} in {where}, with {amount} {unit}.",
    "{who} [led|ran] the {noun} in {where} at {when}, with {amount} {unit}.",
)
RAMBLING = (
    "Well, [so|anyway|you see], there was [this|a kind of] {noun}, and [if I recall|as they say] it"
    " was [somewhere around|over in] {where}, and [people talked|word got around], and [that was"
    " that|so it goes|who knows what else].",
    "So, [to begin with|in a way], it was [about|all about] the {noun}, and {who} was [there|part"
    " of it|in it somehow], and [one thing led to another|time passed], and [well|really], [that is"
    " it|what more can one say].",
    "[It seems|It would seem|They say] that, [more or less|by and large], [some time|a while] ago,"
    " at {when} or so, there was the {noun}, and [I think|I believe] it was {who}, and [everyone|"
    "everybody] [had a view|said something] about it.",
    "[Many things|A lot] could be said, [and were said|as always], but the {noun} in {where} [had"
    " its day|came and went], with {amount} {unit}, [or so they tell me|if that means anything],"
    " and [there it is|there you are].",
)
OFF_TOPIC = (
    "[My cousin|My uncle|A friend of mine] [once|never] [bought|sold|lost] a [blue|red|old]"
    " [hat|boat|clock].",
    "[It rained|It snowed|The sun shone] [all week|yesterday|last year], [and|but] [I|we] [stayed"
    " home|went out|slept in].",
    "[Cats|Dogs|Horses] [like|fear|ignore] [fish|rain|mirrors], [as a rule|of course|in my view].",
    "[This|All this] [reminds me|makes me think] of the {other} [back home|long ago|I once saw].",
)
