"""Texts that are no problems of this pack: what the verifier has to call `undetermined`.

Each split has texts of its own, of other kinds and wording. The generator and the verifier are trained on those of `train`: how they
judge a text that they know by heart says nothing about the next one that somebody types."""

from __future__ import annotations

from random import Random

from ..errors import OutsideDomain
from .problems import read_problem

TEMPLATES: dict[str, tuple[str, ...]] = {
    "train": (
        "What is the capital of {place}?",
        "Who wrote {thing}?",
        "Write a poem about {thing}.",
        "Tell me a joke about {thing}.",
        "Translate {thing} into {place} words.",
        "How many {thing}s are there in {place}?",
        "Prove that there are infinitely many primes.",
        "Solve x^2 + {a}x = {b}",
        "Solve {a}x^2 = {b}",
        "x^2 - {a} = {b}",
        "Find the derivative of {a}x^2 + {b}x",
        "Integrate {a}x + {b} from 0 to {a}",
        "What is the square root of {b}?",
        "sqrt(x + {a}) = {b}",
        "sin(x) = {a}/{b}",
        "x + y = {a}, x - y = {b}",
        "{a}x + {b}y = 12",
        "x < {a} + {b}",
        "A train travels {a} km in {b} hours. How fast is it?",
        "Anna has {a} apples and buys {b} more. How many apples has she now?",
        "The sum of two numbers is {b} and their difference is {a}. Find the numbers.",
        "What is the area of a circle with radius {a}?",
        "Is {b} a prime number?",
        "Hello, how are you?",
        "What time is it in {place}?",
        "Explain {thing} to a child.",
        "print({a} + {b})",
        "log(x) = {a}",
        "2^x = {b}",
        "{a}x + {b}",
        "{a}x + {b} = {a}x + {b}",
        "Factor x^2 + {a}x + {b}",
    ),
    "validation": (
        "A rectangle is {a} cm long and {b} cm wide. What is its perimeter?",
        "What is the volume of a cube with edges of {a} cm?",
        "Two angles of a triangle measure {a} and {b} degrees. How large is the third?",
        "How many diagonals does a polygon with {b} sides have?",
        "A recipe for {a} people needs {b} g of flour. How much does one person need?",
        "Convert {b} km/h to m/s.",
        "A tap fills {b} litres in {a} minutes. How long does a bath of 200 litres take?",
        "Ben is {a} years older than Mia, and together they are {b}. How old is Mia?",
        "A shirt costs {b} euros after a discount of {a}%. What was the price before?",
        "Solve the system p + 2q = {b}, 3p - q = {a}",
        "y = {a}x + 1 and y = {b} - x. Where do the lines meet?",
        "Solve (x - {a})(x + {b}) = 0",
        "{a}x² - {b}x + 1 = 0",
        "x(x + {a}) = {b}",
        "Complete the square: x^2 + {b}x",
        "ln x = {a}",
        "Simplify log {a} + log {b}",
        "{a}^3 + {b}",
        "{a}!",
        "|x - {a}| = {b}",
        "What is the largest common divisor of {a} and {b}?",
        "Round {b}.{a}7 to one decimal place.",
        "What is {b} in binary?",
        "What is the mean of {a}, {b} and 12?",
        "In how many ways can {a} people stand in a line?",
        "What does the word 'reluctant' mean?",
        "Give a synonym for 'brave'.",
        "How do you spell the plural of 'mouse'?",
        "In which year did the Berlin Wall fall?",
        "Who led the Soviet Union during the Second World War?",
        "Write a Python function that reverses a string.",
        "for i in range({a}): total += {b}",
        "SELECT name FROM users WHERE age > {b};",
        "A car brakes from {b} m/s to a stop in {a} s. What is its deceleration?",
        "What is the kinetic energy of a ball of {a} kg at {b} m/s?",
        "Balance H2 + O2 -> H2O",
        "How many protons does carbon have?",
        "thanks, that was helpful",
        "Can you help me with my homework?",
        "What is your favourite film?",
        "Wie spät ist es?",
        "¿Cuántos años tienes?",
        "Résous l'équation {a}x² = {b}",
        "...",
        "asdf jkl",
        "x",
    ),
    "test": (
        "What is the hypotenuse of a right triangle with legs {a} and {b}?",
        "A circle has a circumference of {b} cm. What is its diameter?",
        "Find the distance between the points ({a}, 1) and (4, {b}).",
        "What is the surface of a sphere with a radius of {a} m?",
        "Can a triangle have sides of {a}, {b} and 9 cm?",
        "Express {a} hours in seconds.",
        "Petrol costs {b} cents a litre. What do {a} litres cost?",
        "Two cyclists {b} km apart ride towards each other at {a} km/h. When do they meet?",
        "Tom reads {a} pages a day. In how many days does he finish a book of {b} pages?",
        "The ratio of boys to girls is {a} to {b}. How many boys are there among 90 children?",
        "Solve simultaneously: {a}u + v = {b} and u - v = 1",
        "a + b + c = {b}, a - b = {a}, b = c",
        "Find m and n with m + n = {b} and mn = {a}",
        "x² + {a}x + {b} = 0",
        "Find the roots of y = x^2 - {b}",
        "(x + {a})^2 = {b}",
        "What is the discriminant of {a}x^2 + {b}x + 1?",
        "1/x + {a} = {b}",
        "Solve log_{a}(x) = 3",
        "e^x = {b}",
        "tan(2x) = {a}",
        "{b} mod {a}",
        "{a} <= x + 1 <= {b}",
        "Let f(x) = {a}x + {b}. What is f(3)?",
        "What is the limit of sin({a}x)/x at 0?",
        "What is the median of {b}, {a}, 3, 8 and 1?",
        "How likely is it to roll a six {a} times in a row?",
        "Which number comes next: {a}, {b}, 40?",
        "3 + {a} = {b}, true or false?",
        "Use 'although' in a sentence.",
        "What is the opposite of 'generous'?",
        "Which of these is a verb: run, blue, table?",
        "When did the First World War begin?",
        "What was the Magna Carta?",
        "Who discovered penicillin?",
        "def f(n): return n * {a}",
        "Why does my loop never end?",
        "How do I sort a list in JavaScript?",
        "A stone falls for {a} s. How deep is the well?",
        "What current flows through {a} ohms at {b} volts?",
        "What is the molar mass of CO2?",
        "Is a solution with pH {a} acidic?",
        "good morning!",
        "I am bored, what shall we do",
        "ok",
        "Combien font {a} fois {b} ?",
        "Quanto fa {a} più {b}?",
        "Was ist die Hauptstadt der Schweiz?",
        "こんにちは",
        "???",
        "qwertz uiop",
        "{a} {b}",
    ),
}
"""By split; `{a}` and `{b}` stand for numbers. The words of those of `train` are in the tokenizer's vocabulary, those of the others are
not: a text from outside brings its own words."""

PLACES = [
    "France",
    "Japan",
    "Brazil",
    "Kenya",
    "Norway",
    "Canada",
    "Egypt",
    "India",
    "Peru",
    "Spain",
    "Chile",
    "Paris",
    "London",
    "Berlin",
    "Rome",
    "Cairo",
]
THINGS = [
    "rain",
    "Hamlet",
    "gravity",
    "tree",
    "river",
    "music",
    "star",
    "house",
    "cat",
    "dog",
    "moon",
    "summer",
    "bread",
    "school",
    "winter",
    "ocean",
    "tea",
]
_SYLLABLES = [
    "ba",
    "ke",
    "lo",
    "mi",
    "nu",
    "ra",
    "se",
    "ti",
    "vo",
    "za",
    "pre",
    "con",
    "ter",
    "al",
    "ing",
    "est",
    "or",
    "an",
    "the",
    "wh",
    "sh",
    "ch",
]


def make_outside(rng: Random, split: str = "train") -> str:
    """A text of `split` that is no problem of this pack. Whoever measures a model takes another split than `train`."""
    while True:
        if split == "train" and rng.random() < 0.15:
            words = ["".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(2, 8))]
            text = " ".join(words).capitalize() + rng.choice("?.!")
        else:
            text = filled(TEMPLATES[split], rng)
        try:
            read_problem(text)
        except OutsideDomain:
            return text


def filled(templates: tuple[str, ...], rng: Random) -> str:
    """One of the templates with numbers and names in it."""
    a, b = sorted((rng.randint(2, 20), rng.randint(2, 60)))
    text = rng.choice(templates).replace("{a}", str(a)).replace("{b}", str(b))
    return text.replace("{place}", rng.choice(PLACES)).replace("{thing}", rng.choice(THINGS))
