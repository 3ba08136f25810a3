"""Texts of a given number of words, which are one token each in most vocabularies."""
import random

WORDS = ("about after any assistant attention baker banjo beautiful best birthday black blue bread brown called cat "
         "cello cheese chess choice city climbing coffee color cooking cup curry cycling dancing day december "
         "doctor dog drink drums every farmer favorite fine fishing flute food free friday friend from fun garden "
         "gold good gray green guitar hamster harp have hello help here hiking home horse how juice july june "
         "layers learning like live lizard love lovely luck march matter meeting milk model monday month more "
         "morning most moved name nice nurse october orange other painting parrot pasta piano pilot pink pizza play "
         "playing please project purple rabbit reading red remember rice running sailing salad silver singing "
         "sister small something soup sunday sweet swimming tea teacher tell thank that there think thursday time "
         "trade tuesday turtle very violin was water wednesday welcome well what which white will with work working "
         "would writer yellow yet your").split()


class WordText:
    """Texts that follow from the seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def take(self, count):
        return " ".join(self.random.choice(WORDS) for _ in range(count))
