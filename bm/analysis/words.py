"""What a word is: its class and its frequency, from lists that need no network."""
import numpy as np
import pandas as pd

#: closed-class words: articles, pronouns, prepositions, conjunctions, auxiliaries, particles
_ENGLISH = """
a an the this that these those some any no every each either neither both all such what which whose
i you he she it we they me him her us them my your his its our their mine yours hers ours theirs myself yourself
himself herself itself ourselves yourselves themselves who whom one someone anyone everyone somebody anybody everybody
nobody something anything everything nothing
of in to for with on at from by about as into like through after over between out against during without before under
around among upon within along across behind beyond near off above below toward towards since until onto per
and or but nor so yet if because although though while whereas unless than whether when where why how once
be am is are was were been being have has had having do does did done doing will would shall should can could may might
must ought not there here then too very just also only even
don't doesn't didn't isn't aren't wasn't weren't won't wouldn't can't couldn't shouldn't haven't hasn't hadn't i'm i've
i'd i'll you're you've you'd you'll he's he'd he'll she's she'd she'll it's it'd it'll we're we've we'd we'll they're
they've they'd they'll that's there's here's what's who's let's
"""
_DUTCH = """
de het een die dat deze dit elke elk ieder iedere alle geen zo'n wat welke wie
ik jij je u hij zij ze wij we jullie hen hun hem haar mij me ons onze mijn jouw uw zijn zichzelf zich iemand niemand
iets niets men er hier daar
van in op te met voor aan door over bij uit naar om tot tegen onder tussen na tijdens zonder achter boven langs rond
sinds vanaf binnen buiten per
en of maar want dus als dan omdat hoewel terwijl toen zodat indien dat wanneer waar waarom hoe
ben bent is zijn was waren geweest heb hebt heeft hebben had hadden gehad word wordt worden werd werden geworden zal
zult zullen zou zouden kan kunt kunnen kon konden mag mogen mocht mochten moet moeten moest moesten niet ook nog wel
al maar toch even heel zeer
"""
FUNCTION_WORDS = {"en": frozenset(_ENGLISH.split()), "nl": frozenset(_DUTCH.split())}

#: edges of bins of the Zipf scale
ZIPF = (3.0, 4.0, 5.0, 6.0)


def plain(words: pd.Series) -> pd.Series:
    """Words in lower case, without punctuation around them."""
    return words.astype(str).str.lower().str.replace("’", "'").str.strip(".,;:!?\"'()-–—…“”‘ ")


def word_class(table: pd.DataFrame) -> tuple[str, pd.Series] | None:
    """What the breakdown is called, and the class of each word: its part of speech where the events tell it (`pos`),
    else whether it is on the list of function words of its language; None without either.

    Args:
        table: `word`, and `pos` and `language` if known.
    """
    pos = table.get("pos", pd.Series("", index=table.index)).replace("", np.nan)
    if pos.notna().any():
        return "part of speech", pos
    language = table.get("language", pd.Series("", index=table.index))
    known = language.isin(FUNCTION_WORDS) & (table["word"] != "")
    if not known.any():
        return None
    listed = [word in FUNCTION_WORDS.get(code, ()) for word, code in zip(plain(table["word"]), language, strict=True)]
    named = pd.Series(np.where(listed, "function", "content"), table.index)
    return "word class (closed-class list)", named.where(known)


def frequency(table: pd.DataFrame) -> tuple[str, pd.Series] | None:
    """What it is called, and the frequency of each word: on the Zipf scale, or without the package wordfreq (or a list
    for the language) the number of times that it is in these segments' sentences; None without words.

    Source: see `bm.features.words.WordFrequency`.
    """
    words = plain(table["word"]).where(table["word"] != "")
    if not words.notna().any():
        return None
    zipf = _zipf(words, table.get("language", pd.Series("", index=table.index)))
    if zipf is not None:
        return "word frequency (Zipf)", zipf
    sentences = table["sentence"].drop_duplicates()
    counts = plain(pd.Series(" ".join(sentences).split(), dtype=str)).value_counts()
    return "count in the test's sentences", words.map(counts).astype(float)


def _zipf(words: pd.Series, language: pd.Series) -> pd.Series | None:
    try:
        from wordfreq import available_languages, zipf_frequency
    except ImportError:
        return None
    known = language.isin(list(available_languages())) & words.notna()
    if not known.any():
        return None
    pairs = {pair: zipf_frequency(*pair) for pair in set(zip(words[known], language[known], strict=True))}
    return pd.Series([pairs.get(pair, np.nan) for pair in zip(words, language, strict=True)], words.index)
