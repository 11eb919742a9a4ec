"""Word lists of the tasks, split for ever into words to train on and words to test on.

A word belongs to the held-out half of its list when a hash of the word says so. The split therefore
needs no file, no order and no seed: a name that the model met in a training task can not turn up
in a held-out case, and this stays true when lists grow. Only task vocabularies are split; the books
and the copy drills of the corpus may hold any word.

Invented names ("Torvan", "Kelina") are made of syllables and split by the same hash. They force the
model to copy instead of recalling.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random
from typing import Literal

from mixtral.tokenizer import load_tokenizer

Split = Literal["train", "heldout"]

_FIRST_PIECE = 1027  # ids below are control tokens and single bytes
_LOWER_CASE = re.compile(rb" [a-z]{3,}")
_OPEN_SHARE = 0.5
_CAPITALISED = re.compile(rb" [A-Z][a-z]{2,}")


@lru_cache(maxsize=1 << 16)
def is_heldout(text: str) -> bool:
    """Say whether a word, a phrase or a problem belongs to the held-out one in eight."""
    return hashlib.sha256(text.lower().encode()).digest()[0] % 8 == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class WordPool:
    """A list of words in two halves that share none."""

    train: tuple[str, ...]
    """Words for training."""
    heldout: tuple[str, ...]
    """Words for held-out cases."""
    is_open: bool = False
    """Whether training draws half of the words from the whole vocabulary instead: who only ever
    sees fifty foods learns to choose one of fifty, not to copy the one that is there."""

    @classmethod
    def of(cls, text: str, separator: str | None = None, *, is_open: bool = False) -> "WordPool":
        """Split a text into words (or phrases between separators) and these into two halves."""
        words = dict.fromkeys(word.strip() for word in text.split(separator) if word.strip())
        return cls(
            train=tuple(word for word in words if not is_heldout(word)),
            heldout=tuple(word for word in words if is_heldout(word)),
            is_open=is_open,
        )

    def words(self, split: Split) -> tuple[str, ...]:
        """Return the words of one half."""
        return self.train if split == "train" else self.heldout

    def draw(self, rng: Random, split: Split) -> str:
        """Draw one word."""
        if split == "train" and self.is_open and rng.random() < _OPEN_SHARE:
            return _like(rng, self.train[0])
        return rng.choice(self.words(split))

    def sample(self, rng: Random, split: Split, count: int) -> list[str]:
        """Draw different words, at most as many as there are."""
        words = self.words(split)
        drawn = rng.sample(words, min(count, len(words)))
        if split == "train" and self.is_open:
            others = [_like(rng, word) if rng.random() < _OPEN_SHARE else word for word in drawn]
            return others if len(set(others)) == len(others) else drawn
        return drawn


_SYLLABLES = """
    ba be bo bri da de dor el fa fen ga gor hal in jo ka kel la len lo lu ma mar mel mi mo na
    nel no or pa per ra ren ri ro sa sel si ta tel tor tri va vel vi wen za zor"""
_ENDINGS = "n la ra no na s ri mo th den son ton li ka via rin dan bel lo ver"


def invent_name(rng: Random, split: Split) -> str:
    """Make up a capitalised name of two or three syllables."""
    syllables, endings = _SYLLABLES.split(), _ENDINGS.split()
    while True:
        parts = [rng.choice(syllables) for _ in range(rng.choice((1, 2)))]
        name = "".join([*parts, rng.choice(endings)]).capitalize()
        if is_heldout(name) == (split == "heldout"):
            return name


FIRST_NAMES = WordPool.of(
    """Aaron Abigail Adam Adele Adrian Agnes Alan Albert Alex Alexander Alice Alison Amanda Amber
    Amy Andrea Andrew Angela Anita Ann Anna Anthony Antonio Arthur Barbara Ben Benjamin Bernard
    Beth Betty Bill Bob Brandon Brenda Brian Bruce Carl Carla Carlos Carmen Carol Caroline Catherine
    Charles Charlotte Chris Christina Christine Claire Clara Claude Colin Connie Craig Cynthia Dan
    Daniel David Dawn Dean Deborah Denis Dennis Derek Diana Diane Diego Donald Donna Doris Dorothy
    Douglas Dylan Edgar Edith Edward Eileen Elena Eli Elizabeth Ella Ellen Elsa Emily Emma Eric
    Erica Ernest Ethan Eva Evelyn Felix Fiona Florence Frances Francis Frank Fred Gabriel Gary
    George Gerald Gina Gloria Gordon Grace Greg Hannah Harold Harry Harvey Heather Helen Henry
    Herbert Holly Howard Hugh Ian Irene Iris Isaac Isabel Ivan Jack Jacob James Jane Janet Jason
    Jean Jeff Jennifer Jenny Jeremy Jerry Jesse Jessica Jim Joan Joe John Jonathan Jose Joseph
    Joshua Joyce Juan Judith Judy Julia Julian Julie Karen Karl Kate Katherine Kathy Keith Kelly
    Ken Kenneth Kevin Kim Kyle Larry Laura Lauren Lawrence Leo Leon Leonard Leslie Lewis Lily Linda
    Lisa Logan Louis Louise Lucas Lucy Luis Luke Lydia Marcus Margaret Maria Marie Marilyn Mario
    Marion Mark Martha Martin Mary Mason Matthew Maurice Max Megan Melissa Michael Michelle Miguel
    Mike Mona Monica Nancy Naomi Natalie Nathan Neil Nelson Nicholas Nicole Nina Noah Nora Norman
    Oliver Olivia Omar Oscar Owen Pamela Patricia Patrick Paul Paula Pedro Peggy Peter Philip
    Phyllis Rachel Ralph Ray Raymond Rebecca Richard Rita Robert Robin Roger Ronald Rosa Rose Roy
    Ruby Russell Ruth Ryan Sally Sam Samantha Samuel Sandra Sara Sarah Scott Sean Sharon Sheila
    Shirley Simon Sofia Sophia Stanley Stella Stephen Steve Steven Stuart Susan Sylvia Ted Teresa
    Theo Theresa Thomas Tim Timothy Tina Todd Tom Tony Tracy Vera Vernon Victor Victoria Vincent
    Violet Virginia Walter Wanda Warren Wayne Wendy William Willie Yvonne Zoe""",
    is_open=True,
)

LAST_NAMES = WordPool.of(
    """Adams Alexander Allen Anderson Andrews Armstrong Arnold Austin Bailey Baker Ball Banks Barker
    Barnes Barrett Bates Beck Bell Bennett Berry Bishop Black Blair Boyd Bradley Brooks Brown Bryant
    Burke Burns Burton Butler Byrd Campbell Carlson Carpenter Carr Carroll Carter Castillo Chambers
    Chapman Chavez Clark Cole Coleman Collins Cook Cooper Cox Craig Crawford Cross Cruz Cunningham
    Curtis Daniels Davidson Davis Dawson Day Dean Diaz Dixon Douglas Doyle Duncan Dunn Edwards
    Elliott Ellis Evans Farmer Ferguson Fernandez Fields Fisher Fleming Fletcher Flores Ford Foster
    Fowler Fox Franklin Frazier Freeman Fuller Garcia Gardner Garrett George Gibson Gilbert Gomez
    Gonzalez Gordon Graham Grant Graves Gray Green Greene Gregory Griffin Hall Hamilton Hansen
    Hanson Hardy Harper Harris Harrison Hart Harvey Hawkins Hayes Henderson Henry Hernandez Hicks
    Higgins Hill Hoffman Holland Holmes Holt Hopkins Horton Howard Howell Hudson Hughes Hunt Hunter
    Jackson Jacobs James Jenkins Jensen Johnson Johnston Jones Jordan Kelley Kelly Kennedy Kim King
    Knight Lambert Lane Larson Lawrence Lawson Lee Lewis Little Long Lopez Lowe Lucas Lynch Marshall
    Martin Martinez Mason Matthews May McCoy McDonald Mendoza Meyer Miles Miller Mills Mitchell
    Montgomery Moore Morales Moreno Morgan Morris Morrison Murphy Murray Myers Neal Nelson Newman
    Nguyen Nichols Norris Obrien Oliver Olson Ortiz Owens Palmer Parker Parsons Patterson Payne
    Pearson Perez Perkins Perry Peters Peterson Phillips Pierce Porter Pot Powell Price Ramirez
    Ramos Ray Reed Reid Reyes Reynolds Rhodes Rice Richards Riley Rivera Roberts Robertson Robinson
    Rodriguez Rogers Romero Rose Ross Ruiz Russell Ryan Sanchez Sanders Schmidt Schultz Scott Shaw
    Shelton Silva Simmons Simpson Sims Smith Snyder Spencer Stanley Stephens Stevens Stewart Stone
    Sullivan Sutton Taylor Terry Thomas Thompson Torres Tucker Turner Vargas Vasquez Wade Wagner
    Walker Wallace Walsh Walters Ward Warren Washington Watkins Watson Watts Weaver Webb Weber Welch
    Wells West Wheeler White Williams Williamson Willis Wilson Wood Woods Wright Young""",
    is_open=True,
)

CITIES = WordPool.of(
    """Amsterdam, Athens, Atlanta, Austin, Baltimore, Bangkok, Barcelona, Basel, Beijing, Belfast,
    Bergen, Berlin, Bern, Bilbao, Birmingham, Bologna, Bonn, Bordeaux, Boston, Bremen, Brighton,
    Bristol, Brussels, Bucharest, Budapest, Buffalo, Cairo, Calgary, Cambridge, Cardiff, Chicago,
    Cleveland, Cologne, Copenhagen, Dallas, Delhi, Denver, Detroit, Dresden, Dublin, Durham,
    Edinburgh, Florence, Frankfurt, Geneva, Genoa, Ghent, Glasgow, Granada, Hamburg, Hanover,
    Helsinki, Houston, Istanbul, Kyoto, Lagos, Leeds, Leipzig, Lima, Lisbon, Liverpool, London,
    Lyon, Madrid, Manchester, Marseille, Melbourne, Memphis, Miami, Milan, Montreal, Moscow, Mumbai,
    Munich, Nairobi, Nantes, Naples, Nashville, Newcastle, Nice, Norwich, Orlando, Osaka, Oslo,
    Ottawa, Oxford, Palermo, Paris, Perth, Phoenix, Pisa, Plymouth, Porto, Portland, Prague, Quebec,
    Reading, Richmond, Riga, Rome, Rotterdam, Salzburg, Santiago, Seattle, Seoul,
    Seville, Sheffield, Shanghai, Singapore, Sofia, Stockholm, Stuttgart, Sydney, Tokyo, Toledo,
    Toronto, Toulouse, Trieste, Turin, Utrecht, Valencia, Vancouver, Venice, Verona, Vienna, Warsaw,
    Wellington, York, Zurich""",
    ",",
    is_open=True,
)

STREETS = WordPool.of(
    """Abbey, Acorn, Apple, Ash, Baker, Bank, Beach, Bell, Birch, Bisson, Bridge, Broad, Castle,
    Cedar, Chapel, Cherry, Chestnut, Church, Clark, Clay, College, Court, Cross, Dale, East, Elm,
    Fair, Field, Forest, Fountain, Franklin, Garden, Gate, Grand, Grove, Harbor, Harvest, Hazel,
    High, Hill, Holly, Hunter, Iron, Jackson, Jefferson, King, Lake, Laurel, Liberty, Lime, Lincoln,
    Long, Madison, Main, Maple, Market, Meadow, Mill, Moon, Mountain, New, North, Oak, Ocean,
    Orange,
    Orchard, Park, Pearl, Pine, Pleasant, Pond, Prince, Queen, Railroad, Ridge, River, Rose, Samuel,
    School, Silver, South, Spring, Station, Stone, Summer, Sunset, Temple, Tower, Union, Valley,
    Victoria, Walnut, Washington, Water, West, Willow, Windsor, Winter, Wood""",
    ",",
    is_open=True,
)

COLOURS = WordPool.of(
    """red blue green yellow orange purple pink brown black white grey silver gold violet crimson
    scarlet turquoise beige ivory lime olive navy maroon cream copper bronze amber coral indigo
    lavender mint peach plum ruby emerald tan teal charcoal""",
    is_open=True,
)

ANIMALS = WordPool.of(
    """cat dog horse cow pig sheep goat duck goose hen mouse rat rabbit fox wolf bear lion tiger
    elephant monkey snake frog turtle parrot eagle owl crow swan fish shark whale dolphin seal crab
    spider bee ant butterfly deer camel donkey hamster lizard penguin zebra giraffe kangaroo pony
    otter badger hedgehog squirrel mole beaver moose buffalo leopard panther sparrow robin pigeon
    canary toad snail salmon trout lobster""",
    is_open=True,
)

JOBS = WordPool.of(
    """teacher doctor nurse baker butcher farmer lawyer engineer painter writer singer actor dancer
    pilot sailor soldier driver cook waiter plumber carpenter builder gardener librarian scientist
    chemist architect journalist photographer dentist tailor fisherman mechanic electrician judge
    banker student musician designer programmer translator secretary manager clerk guide barber
    jeweller florist miner poet potter printer surgeon vet""",
    is_open=True,
)

FOODS = WordPool.of(
    """bread cheese butter milk rice soup salad pasta pizza cake honey sugar salt pepper garlic
    onion potato tomato carrot cabbage lettuce spinach bean pea corn mushroom apple pear banana
    orange lemon grape cherry peach plum melon strawberry apricot fig date nut almond olive egg
    bacon ham sausage chicken beef fish shrimp tea coffee juice chocolate cookie pie pancake
    sandwich noodle yogurt jam""",
    is_open=True,
)

THINGS = WordPool.of(
    """table chair lamp book pen paper door window wall floor roof bed clock phone computer
    key box bag bottle cup plate spoon fork knife glass mirror picture letter map coat hat shoe
    shirt ring watch wheel car bus train boat ship plane bicycle bridge road street house school
    church tower castle river lake sea mountain hill forest tree flower leaf stone sand rain snow
    wind cloud sun moon star fire candle rope hammer nail saw brush bucket basket blanket pillow
    carpet curtain drum piano guitar violin flute bell ball kite doll toy game card coin stamp
    ticket newspaper camera radio engine ladder fence gate barn field farm market shop bank station
    island desert valley cave beach storm shadow dream story song dance garden wagon tent flag
    shelf drawer button needle thread ribbon jar kettle stove oven bench desk notebook pencil
    ruler eraser scissors""",
    is_open=True,
)

ADJECTIVES = WordPool.of(
    """big small old new long short tall high low wide narrow thick thin heavy light fast slow hot
    cold warm cool dry wet clean dirty full empty open quiet loud soft hard smooth rough sharp
    sweet bitter sour fresh rich poor happy sad angry calm brave shy kind proud strong weak young
    bright dark early late easy simple strange common rare busy lazy clever wise gentle wild round
    square deep""",
    is_open=True,
)

HOBBIES = WordPool.of(
    """chess, tennis, football, swimming, cooking, reading, painting, singing, dancing, fishing,
    hiking, running, cycling, gardening, knitting, sailing, skiing, climbing, photography, pottery,
    riding, rowing, baseball, basketball, golf, drawing, writing, sewing, baking, camping, skating,
    boxing, archery, fencing, surfing, yoga, poker, bowling, hockey, rugby""",
    ",",
    is_open=True,
)

COUNTRIES = WordPool.of(
    """France, Germany, Spain, Italy, Portugal, Ireland, Norway, Sweden, Finland, Denmark, Poland,
    Austria, Greece, Turkey, Egypt, Kenya, Ghana, Nigeria, Morocco, India, China, Japan, Vietnam,
    Thailand, Australia, Canada, Mexico, Brazil, Chile, Peru, Argentina, Cuba, Russia, Ukraine,
    Hungary, Romania, Belgium, Iceland, Switzerland, Scotland, Wales, England""",
    ",",
    is_open=True,
)

COMPANIES = WordPool.of(
    """Acme, Northwind, Bluebird, Redwood, Silverline, Sunrise, Evergreen, Highland, Riverside,
    Lakeside, Starlight, Granite, Ironwood, Maplewood, Oakridge, Pinecrest, Westfield, Eastgate,
    Goldleaf, Brightside, Clearwater, Stonebridge, Summit, Horizon, Harbor, Meridian, Atlas, Falcon,
    Phoenix, Orion, Apex, Vertex, Pioneer, Liberty, Crystal, Diamond, Galaxy, Compass, Beacon,
    Anchor""",
    ",",
    is_open=True,
)

KEYS = WordPool.of(
    """label rank level grade score weight height length width depth volume speed power owner
    editor leader captain coach tutor sender receiver buyer seller tenant guest host pilot driver
    genre style theme topic subject title chapter verse volume edition publisher language accent
    origin source target route track lane gate terminal platform seat row cabin deck floor suite
    material fabric texture pattern shape finish shade tint flavour scent aroma taste topping
    filling sauce dressing garnish vintage brand model series variant version release build patch
    status stage phase step mode setting option choice vote rating review verdict motive method
    tool device gadget sensor signal channel band station network server port region zone sector
    district county province parish village harbour airport mission project budget cost fee fare
    tax bonus salary wage discount deposit balance account branch office department team squad
    league season round match opponent venue stadium referee medal prize award trophy rival
    mentor nickname alias initials signature motto slogan anthem symbol emblem badge crest mascot
    breed species habitat diet lifespan colony herd nest shelter keeper collar leash vessel crew
    cargo anchor rudder mast engine fuel mileage gear axle tyre bumper licence permit visa
    passport ticket coupon voucher receipt invoice order parcel courier depot warehouse shelf""",
    is_open=True,
)
KEY_QUALIFIERS = WordPool.of(
    """main first second last next home work total final start end old new own base test next_day
    public private local daily weekly yearly current former backup lead senior junior spare"""
)

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def person(rng: Random, split: Split) -> tuple[str, str]:
    """Draw a first and a last name; one in three is invented."""
    return first_name(rng, split), last_name(rng, split)


def first_name(rng: Random, split: Split) -> str:
    """Draw a first name; one in three is invented."""
    return invent_name(rng, split) if rng.random() < 0.33 else FIRST_NAMES.draw(rng, split)


def last_name(rng: Random, split: Split) -> str:
    """Draw a last name; one in three is invented."""
    return invent_name(rng, split) if rng.random() < 0.33 else LAST_NAMES.draw(rng, split)


def city(rng: Random, split: Split) -> str:
    """Draw a city; one in four is invented."""
    return invent_name(rng, split) if rng.random() < 0.25 else CITIES.draw(rng, split)


def digits(rng: Random, count: int) -> str:
    """Draw a number with so many digits that does not begin with zero."""
    return str(rng.randint(10 ** (count - 1), 10**count - 1))


def key(rng: Random, split: Split) -> str:
    """Draw the name of a field, such as ``vintage`` or ``main_sensor``; the whole name is held.

    Half of those of training are any words of the vocabulary.
    """
    while True:
        is_any = split == "train" and rng.random() < _OPEN_SHARE
        name = any_word(rng, split) if is_any else rng.choice(KEYS.train + KEYS.heldout)
        if rng.random() < 0.35:
            qualifier = rng.choice(KEY_QUALIFIERS.train + KEY_QUALIFIERS.heldout)
            name = f"{qualifier}_{name}"
        if is_heldout(name) == (split == "heldout"):
            return name


_UNKIND = frozenset(
    [
        "porn",
        "sex",
        "sexual",
        "nude",
        "naked",
        "fuck",
        "fucking",
        "shit",
        "bitch",
        "ass",
        "rape",
        "slut",
        "nazi",
    ]
)


@cache
def vocabulary() -> tuple[str, ...]:
    """Return the lower-case words of the tokenizer that are one piece: English, some others."""
    return tuple(word for word in _whole_words(_LOWER_CASE) if word not in _UNKIND)


@cache
def capitalised_words() -> tuple[str, ...]:
    """Return the capitalised words of the tokenizer that are one piece, without held-out ones."""
    words = _whole_words(_CAPITALISED)
    return tuple(w for w in words if not is_heldout(w) and w.lower() not in _UNKIND)


def _like(rng: Random, word: str) -> str:
    """Draw a word of the training half, with a capital if the given one has one."""
    return rng.choice(capitalised_words()) if word[0].isupper() else any_word(rng, "train")


def _whole_words(pattern: re.Pattern[bytes]) -> list[str]:
    """Return the pieces that match, without the space in front."""
    tokenizer = load_tokenizer("v3")
    pieces = (tokenizer.token_bytes(i) for i in range(_FIRST_PIECE, tokenizer.vocab_size))
    return [piece[1:].decode() for piece in pieces if pattern.fullmatch(piece)]


@cache
def _vocabulary_half(split: Split) -> tuple[str, ...]:
    return tuple(w for w in vocabulary() if is_heldout(w) == (split == "heldout"))


def any_word(rng: Random, split: Split) -> str:
    """Draw a lower-case word of the whole vocabulary, so that copying is learned, not words."""
    return rng.choice(_vocabulary_half(split))


def any_words(rng: Random, split: Split, count: int) -> list[str]:
    """Draw different lower-case words."""
    return rng.sample(_vocabulary_half(split), count)


def number(rng: Random, split: Split, low: int, high: int) -> int:
    """Draw a whole number of the half; numbers below 1,000 are too few to be split."""
    while True:
        drawn = rng.randint(low, high)
        if drawn < 1000 or is_heldout(str(drawn)) == (split == "heldout"):
            return drawn


def wording(rng: Random, split: Split, options: Sequence[str]) -> str:
    """Draw one of several wordings; those that a hash holds back are for held-out cases alone.

    A held-out case has a wording that was held back three times in five, where there is one.
    """
    held = [option for option in options if is_heldout(option)]
    known = [option for option in options if not is_heldout(option)]
    if not known or (split == "heldout" and held and rng.random() < 0.6):
        return rng.choice(held)
    return rng.choice(known)
