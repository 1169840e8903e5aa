"""English words by subject (gender, age, animals, colours, numbers), for `bench/biases.py`."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MALE = _words(
    """man men boy boys guy guys male males gentleman gentlemen father dad son sons brother brothers husband groom
    cowboy cowboys fireman fisherman businessman he him his himself man's men's boy's boys'"""
)
FEMALE = _words(
    """woman women girl girls lady ladies female females mother mom daughter daughters sister sisters wife bride
    bridesmaids she her hers herself woman's women's girl's girls'"""
)
CHILD = _words(
    """boy boys girl girls child children kid kids toddler toddlers baby babies infant infants boy's girl's child's
    teen teens teenager teenagers teenage"""
)
ADULT = _words("man men woman women lady ladies guy guys gentleman gentlemen adult adults man's woman's")
OLD = _words("old older elderly aged senior")
PEOPLE = _words(
    """person people someone somebody crowd couple group family friends player players team rider skier climber hiker
    surfer skateboarder snowboarder biker bicyclist cyclist swimmer worker dancer performer runner skater"""
)
DOGS = _words("dog dogs puppy puppies greyhound greyhounds poodle collie terrier retriever")
OTHER_ANIMALS = _words(
    """cat cats horse horses bird birds cow cows bull sheep goat goats duck ducks seagull elephant camel monkey bear
    rabbit fish squirrel"""
)
COLOURS = _words(
    "black white red blue green yellow orange brown pink purple gray grey tan gold golden blond blonde silver"
)
NUMBERS = _words("two three four five six seven eight nine ten")
DETERMINERS = _words("a an the his her their its two three some another")
FUNCTION = _words(
    """is are was were has have be being and or but while as with in on at of to from by for into onto through over
    under near that who which wearing holding standing sitting running walking playing jumping riding looking up down
    out off"""
)
