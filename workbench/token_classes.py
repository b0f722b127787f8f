"""Token classes: the vocabulary in which detectors are labelled, from the surface of a token and word lists.

A word list applies to the whole word that a token is a piece of, so that every piece of "plaint|iff" is a legal term.
Words match in their inflected forms ("courts", "pleaded"). The lists are short and general on purpose: a class that
fits is a readable label, not a complete account of what fires a dimension.
"""

import bisect
import keyword
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

ARTICLES = "a an the this that these those each every any some no all both either neither such other another"
PREPOSITIONS = """of in to for with on at by from into onto upon under over between among against through during
without within about above below after before around across behind beyond toward towards off out near until since
per along"""
CONJUNCTIONS = "and or but nor so yet if because although though unless while whereas when where than as whether"
PRONOUNS = """i me my mine myself you your yours yourself he him his himself she her hers herself it its itself we
us our ours ourselves they them their theirs themselves who whom whose which what one nobody nothing someone
everyone"""
AUXILIARIES = """is are was were be been being am has have had do does did will would shall should may might must
can could cannot not"""

TOPICS: dict[str, str] = {
    "legal terms": """court law judge statute plaintiff defendant appellant respondent appeal contract tenant
        landlord lease liability liable offence offense guilty convict conviction sentence imprisonment fine jury
        trial evidence witness testimony counsel attorney lawyer solicitor barrister clause section subsection
        chapter title act code regulation pursuant provision shall hereby herein thereof hereinafter notwithstanding
        party agreement breach damages negligence tort claim plead petition motion verdict judgment injunction
        jurisdiction tribunal license licence permit council mayor district property trustee trust estate heir
        executor testator deed mortgage creditor debtor bankruptcy warrant arrest bail crime criminal civil
        constitution amendment legislature enact repeal authority officer corporation shareholder director notice
        filing hearing oath affidavit sworn lawful unlawful legal premises copyright patent custody guardian
        probation felony misdemeanor prosecution objection overruled""",
    "mathematical terms": """equation number sum product difference quotient divide multiply add subtract solve
        calculate factor multiple prime integer fraction decimal numerator denominator ratio percent percentage
        probability mean median mode average variance angle triangle square circle rectangle polygon radius diameter
        perimeter area volume hypotenuse parallel perpendicular graph slope function variable coefficient polynomial
        quadratic linear root power exponent logarithm derivative integral limit matrix vector determinant set
        subset proof theorem lemma corollary axiom even odd digit remainder divisible divisor simplify expression
        inequality nearest round base sequence series converge infinite geometry algebra calculus arithmetic plus
        minus times equal value answer total half twice""",
    "biological terms": """cell tissue organ organism species gene genetic genome chromosome dna rna protein enzyme
        membrane nucleus mitochondria chloroplast photosynthesis respiration bacteria bacterial virus viral fungi
        fungus microbe plant leaf leaves stem root seed flower pollen animal mammal bird insect fish reptile
        predator prey habitat ecosystem evolution selection mutation allele inherit offspring parent reproduce
        embryo egg sperm muscle bone nerve neuron brain heart lung liver kidney stomach intestine skin blood artery
        vein hormone gland receptor antibody antigen immune lymph glucose insulin amino acid lipid carbohydrate
        metabolism anatomy physiology ribosome mitosis meiosis pathogen parasite host spore algae tree forest""",
    "medical terms": """patient disease symptom treatment therapy drug dose clinical diagnosis diagnose syndrome
        disorder infection cancer tumor tumour surgery surgical hospital doctor physician nurse medicine medical
        medication chronic acute pain fever inflammation vaccine antibiotic trial placebo group risk mortality
        incidence screening health pregnancy infant birth diabetes hypertension stroke asthma arthritis lesion
        biopsy transplant prognosis therapist condition inherited rare affected""",
    "physical terms": """force mass energy velocity speed acceleration momentum gravity gravitational friction
        pressure temperature heat thermal work motion wave wavelength frequency amplitude light photon electron
        proton neutron atom nucleus nuclear charge electric current voltage resistance resistor circuit capacitor
        battery magnetic magnet field flux induction particle quantum relativity spring pendulum oscillation lens
        mirror refraction reflection interference diffraction spectrum entropy equilibrium density fluid buoyant
        torque angular rotation orbit planet star sun galaxy telescope universe radiation radioactive isotope
        conductor semiconductor kinetic potential power distance displacement newton kepler einstein""",
    "chemical terms": """molecule atom ion bond covalent ionic reaction reactant product compound element solution
        solvent solute acid base alkali salt oxide oxygen hydrogen nitrogen carbon sodium potassium chloride sulfur
        iron copper catalyst oxidation reduction electron valence orbital mole molar concentration equilibrium
        titration polymer organic alcohol hydrocarbon methane periodic metal gas liquid solid crystal precipitate
        dissolve chemical chemistry""",
    "verbs of speech and thought": """said say says asked ask answered answer replied reply cried cry exclaimed
        whispered whisper murmured shouted muttered told tell spoke speak spoken talk called call thought think knew
        know wondered wonder felt feel believed believe remembered remember hoped hope wished wish feared fear
        smiled smile laughed laugh sighed sigh wept looked look heard hear saw""",
    "words of story and home": """mother father sister brother daughter son wife husband child children aunt uncle
        lady gentleman king queen prince princess boy girl man woman friend lover house home door window room
        kitchen garden fire lamp candle table chair bed night morning evening day road village town horse carriage
        ship sea wind rain snow moon heart hand eye face voice tear kiss dear love old young beautiful poor little
        strange dark silent soul dream death grave castle forest wolf""",
    "third-person pronouns": "he him his himself she her hers herself they them their theirs themselves",
    "first- and second-person pronouns": """i me my mine myself we us our ours ourselves you your yours yourself thou
        thee thy""",
    "historical and political terms": """war empire emperor king queen kingdom dynasty century revolution republic
        government parliament congress president minister senate election vote democracy democratic monarchy colony
        colonial independence treaty alliance army military soldier battle invasion conquest slave slavery abolition
        reform movement rights citizen party communist socialist fascist nationalist union federal state nation
        territory border church pope catholic protestant christian muslim islam jewish religion ancient medieval
        roman greek british french german american soviet european african asian indian chinese constitution peasant
        noble feudal""",
    "economic terms": """economy economic market price demand supply cost trade export import goods tax tariff
        income wage wages profit loss revenue budget debt loan interest rate inflation unemployment labor labour
        worker firm company industry industrial production consumer producer competition monopoly bank currency
        dollar investment invest capital stock bond growth gdp gross fiscal monetary policy scarcity opportunity
        utility curve elastic elasticity surplus shortage subsidy poverty wealth""",
    "geographical terms": """country region continent north south east west northern southern eastern western ocean
        sea river lake mountain valley desert island coast coastal port city capital climate population border area
        latitude longitude rainfall agriculture natural resource land plain delta canal europe africa asia america
        australia china india france germany britain england russia japan brazil""",
    "psychological and philosophical terms": """mind memory behavior behaviour emotion cognitive psychology
        psychologist personality learning conditioning stimulus perception attention conscious consciousness anxiety
        depression therapy attitude motivation intelligence identity social development stage research study
        philosophy philosopher ethics ethical moral morality virtue reason truth knowledge belief argument logic
        metaphysics epistemology existence plato aristotle socrates kant hume descartes nietzsche freud duty justice""",
    "computing terms": """function class method module file string list dictionary tuple integer object attribute
        variable argument parameter value return exception error type index loop array pointer buffer byte bytes
        encoding decode parse parser thread process socket server client request response cache path directory
        command option default flag test debug compile interpreter import library package version key data""",
    "time words": """second minute hour day week month year decade century today yesterday tomorrow morning
        afternoon evening night noon midnight january february april june july august september october november
        december monday tuesday wednesday thursday friday saturday sunday spring summer autumn winter ago early late
        soon later often always never""",
    "number words": """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
        sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand
        million billion first third fourth fifth sixth seventh eighth ninth tenth half quarter twice dozen double
        triple""",
    "names and titles of persons": """mr mrs ms miss dr sir lord lady professor captain john mary james william
        george henry thomas charles robert richard edward jane anne anna elizabeth emma margaret alice sarah peter
        paul david daniel michael tom tim jack harry lucy lily ben sam martha ruth clara louisa helen laura arthur
        frank joseph samuel maria amelia nora oliver oscar sophie""",
}

UNIT_WORDS = """second minute hour day metre meter centimetre centimeter millimetre millimeter kilometre kilometer
gram kilogram newton joule watt volt ampere amp kelvin celsius fahrenheit degree pascal hertz litre liter inch foot
feet yard mile pound ounce ton tonne percent dollar cent"""
UNIT_SYMBOLS = "m cm mm km nm kg g mg s ms min h hz khz mhz ghz n j kj w kw v mv c f k pa kpa atm mol l ml ft a am pm"
PYTHON_BUILTINS = """print len range str int float list dict set tuple open self cls isinstance super enumerate zip
map filter sorted sum min max abs any all bool bytes iter next object type getattr setattr hasattr property
staticmethod classmethod repr input args kwargs append join split format items keys values"""

QUOTES = "\"'“”‘’«»`"
BRACKETS = "()[]{}⟨⟩"
OPERATORS = "+-−*×·÷/=<>≤≥≠≈^√±∑∫∂→⇒|&~@"
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?\n][\"'”’)]*\s*|\n\s*[\"'“‘(]*)[\"'“‘(]*$")
_CAMEL_CASE = re.compile(r"[a-z][A-Z]")
# A text counts as code where at least three of these marks are found.
_CODE_MARKS = re.compile(r"\w\(|\w_\w|==|\w\[|^\s*(?:def|class|import|from|return|for|if|else|try)\b|:\n\s+|^>>>", re.M)


class Piece(NamedTuple):
    """A token in its text: `core` is its text without outer spaces, `word` the whole word it is a piece of, if any.

    `following` is the character after the word, or after the token where there is no word.
    """

    text: str
    core: str
    word: str
    following: str
    is_continuation: bool
    is_sentence_start: bool
    is_after_number: bool
    is_code: bool


TokenClass = Callable[[Piece], bool]


def visible(text: str) -> str:
    """Text with its spaces, line breaks and tabs as signs."""
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")


def read_pieces(token_text: Sequence[str]) -> list[Piece]:
    """The tokens of one text, in reading order, each with the word it belongs to."""
    text = "".join(token_text)
    words = list(_WORD.finditer(text))
    word_starts = [word.start() for word in words]
    is_code = sum(1 for _ in _CODE_MARKS.finditer(text)) >= 3
    pieces, end = [], 0
    for token in token_text:
        start, end = end, end + len(token)
        core = token.strip()
        at = start + (token.find(core[0]) if core else 0)
        # The word that covers the first character, or else the first word that starts within the token.
        number = bisect.bisect_right(word_starts, at) - 1
        if number < 0 or words[number].end() <= at:
            number += 1
        inside = bool(core) and number < len(words) and words[number].start() < at + len(core)
        word = words[number] if inside else None
        stop = word.end() if word else end
        before = text[max(0, word.start() - 24) : word.start()] if word else ""
        pieces.append(
            Piece(
                text=token,
                core=core,
                word=word.group() if word else "",
                following=text[stop : stop + 1],
                is_continuation=word is not None and word.start() < at,
                is_sentence_start=word is not None and _SENTENCE_START.search(before) is not None,
                is_after_number=before.rstrip()[-1:].isdigit(),
                is_code=is_code,
            )
        )
    return pieces


def class_members(
    token_text: Sequence[str], prompt_index: Int[np.ndarray, "token"]
) -> tuple[tuple[str, ...], Bool[np.ndarray, "token class"]]:
    """Names of all token classes, and for every token to which of them it belongs; a prompt's tokens stand together."""
    classes = token_classes()
    starts = np.flatnonzero(np.diff(prompt_index, prepend=-1)) if len(prompt_index) else np.zeros(0, dtype=int)
    known: dict[Piece, int] = {}
    rows: list[list[bool]] = []
    of_token = np.empty(len(token_text), dtype=np.int64)
    bounds = [*starts.tolist(), len(token_text)]
    for start, stop in pairwise(bounds):
        for offset, piece in enumerate(read_pieces(token_text[start:stop])):
            if piece not in known:
                known[piece] = len(rows)
                rows.append([is_member(piece) for is_member in classes.values()])
            of_token[start + offset] = known[piece]
    members = np.array(rows, dtype=bool).reshape(len(rows), len(classes))
    return tuple(classes), members[of_token]


def token_classes() -> dict[str, TokenClass]:
    """All token classes by name; a class says whether a token in its text belongs to it."""
    lexicons = {name: _lexicon(words) for name, words in {**_GRAMMAR, **TOPICS}.items()}
    return {**_SURFACE, **_WORD_SHAPE, **_QUANTITY, **lexicons, **_CODE}


def _lexicon(words: str) -> TokenClass:
    known = frozenset(words.split())

    def is_member(piece: Piece) -> bool:
        return bool(piece.word) and not known.isdisjoint(_base_forms(piece.word))

    return is_member


@lru_cache(maxsize=100_000)
def _base_forms(word: str) -> tuple[str, ...]:
    """The word in lower case and what it may be an inflection of."""
    word = re.sub(r"['’]s?$", "", word.lower())
    forms = [word]
    if re.search(r"(?:s|x|z|ch|sh|o)es$", word):
        forms.append(word[:-2])
    for ending, base_endings in (("ies", ["y"]), ("s", [""]), ("ed", ["", "e"]), ("ing", ["", "e"])):
        if len(word) >= len(ending) + 3 and word.endswith(ending):
            forms += [word.removesuffix(ending) + base_ending for base_ending in base_endings]
    return tuple(forms)


def _is_mark(piece: Piece) -> bool:
    return bool(piece.core) and not any(character.isalnum() for character in piece.core) and not piece.word


def _has_mark(characters: str) -> TokenClass:
    return lambda piece: _is_mark(piece) and any(character in characters for character in piece.core)


def _is_operator(piece: Piece) -> bool:
    is_hyphen = piece.core == "-" and (piece.following.isalpha() or not piece.following)
    return _is_mark(piece) and all(character in OPERATORS for character in piece.core) and not is_hyphen


def _is_capitalised(piece: Piece) -> bool:
    return piece.word[:1].isupper() and piece.word[1:2].islower()


_SURFACE: dict[str, TokenClass] = {
    "numbers": lambda piece: piece.core[:1].isdigit() and not any(character.isalpha() for character in piece.core),
    "spaces before numbers": lambda piece: not piece.core and "\n" not in piece.text and piece.following.isdigit(),
    "operators": _is_operator,
    "brackets": _has_mark(BRACKETS),
    "full stops, question and exclamation marks": _has_mark(".!?"),
    "commas, colons and semicolons": _has_mark(",:;"),
    "hyphens and dashes": lambda piece: bool(piece.core) and all(character in "-–—" for character in piece.core),
    "quotation marks": _has_mark(QUOTES),
    "punctuation": lambda piece: _is_mark(piece) and not _is_operator(piece),
    "line breaks": lambda piece: "\n" in piece.text,
    "indentation": lambda piece: not piece.core and re.search(r"\n[ \t]+$|^[ \t]{2,}$|\t", piece.text) is not None,
}

_WORD_SHAPE: dict[str, TokenClass] = {
    "capitalised words": _is_capitalised,
    "capitalised words inside sentences": lambda piece: _is_capitalised(piece) and not piece.is_sentence_start,
    "words in capitals": lambda piece: len(piece.word) > 1 and piece.word.isalpha() and piece.word.isupper(),
    "first words of sentences and lines": lambda piece: piece.is_sentence_start,
    "word continuations": lambda piece: piece.is_continuation and piece.core.isalpha(),
    "single letters": lambda piece: len(piece.word) == 1 and piece.word.isalpha() and piece.word not in "aAI",
}

_is_unit_word = _lexicon(UNIT_WORDS)
_UNIT_SYMBOLS = frozenset(UNIT_SYMBOLS.split())
_QUANTITY: dict[str, TokenClass] = {
    "units of measurement": lambda piece: (
        _is_unit_word(piece) or (piece.is_after_number and piece.word.lower() in _UNIT_SYMBOLS)
    ),
}

_GRAMMAR: dict[str, str] = {
    "function words": " ".join([ARTICLES, PREPOSITIONS, CONJUNCTIONS, PRONOUNS, AUXILIARIES]),
    "articles and determiners": ARTICLES,
    "prepositions": PREPOSITIONS,
    "conjunctions": CONJUNCTIONS,
    "auxiliary and modal verbs": AUXILIARIES,
}

_PYTHON_BUILTINS = frozenset(PYTHON_BUILTINS.split())
_PYTHON_KEYWORDS = frozenset(keyword.kwlist)
_CODE: dict[str, TokenClass] = {
    "Python keywords": lambda piece: piece.is_code and piece.word in _PYTHON_KEYWORDS,
    "Python built-in names": lambda piece: piece.is_code and piece.word in _PYTHON_BUILTINS,
    "identifiers": lambda piece: "_" in piece.word or _CAMEL_CASE.search(piece.word) is not None,
    "called names": lambda piece: piece.following == "(" and piece.core.replace("_", "").isalnum() and piece.is_code,
}
