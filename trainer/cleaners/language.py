"""Which language a document is in, by the share of its words that are function words of each (Ingle 1976; Grefenstette
1995, "Comparing two language identification schemes": as good as trigrams from some dozen words on). No model, no data.
"""

from trainer.cleaners.words import Words

_FEWEST_WORDS = 10  # below, nobody can tell: the document stays
_LEAST_SHARE = 0.1  # lists of words, code and languages without a list have fewer

_FUNCTION_WORDS = {
    "de": "der die und das den von zu des mit sich auf für ist im dem nicht ein eine als auch es an werden aus "
    "er hat dass sie nach wird bei einer um am sind noch wie einem über so zum war haben nur oder aber "
    "vor zur bis mehr durch",
    "en": "the of and to a in that is was he for it with as his on be at by i this had not are but from or have "
    "an they which one you were her all she there would their we him been has when who will more no if "
    "out so what its",
    "es": "de la que el en y a los del se las por un para con no una su al lo como más o pero sus le ha me si "
    "sin sobre este ya entre cuando todo esta ser son dos también fue había era muy hasta desde está nos "
    "durante ni ese eso",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la "
    "avec son les aux d ou mais comme si leur y cette être elle nous tout même ces dont deux vous était "
    "ses sans fait peut où",
    "it": "di e il la che in un a per del è una della con non le i si da al dei nel come più lo ma alla delle "
    "gli su ha sono o anche dal se ad questo stato essere ed tra suo due nella dalla sua degli questa "
    "alle era quando loro",
    "nl": "de van het een en in is dat op te zijn met voor niet aan er om ook als dan maar bij of uit nog naar "
    "heeft ze door over worden wordt hij die was deze kan hebben wel tot geen dit veel meer moet zo na "
    "zou al werd haar zich",
    "pl": "w i na z się nie do że jest to o jak od po za co przez ale dla ze by może być jego lub już tylko "
    "które który oraz tym jeszcze tego są czy nad ich pod go jednak był przed bez ma gdy bardzo także jej "
    "było która można",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem "
    "à seu sua ou ser quando muito há nos já está eu também só pelo pela até isso ela entre era depois "
    "sem mesmo aos ter seus",
    "sv": "och i att det som en på är av för med den till inte har de om ett han men var sig från så vi kan nu "
    "man när år här eller ut upp där över hade vid skulle då under också blir efter sin bara mot än vara "
    "alla denna detta",
}
_OF: dict[str, list[str]] = {}  # the languages of each word
for _language, _words in _FUNCTION_WORDS.items():
    for _word in set(_words.split()):
        _OF.setdefault(_word, []).append(_language)


def language(words: Words) -> str | None:
    """The code of the document's language; None for too few words, and "unknown" for none of those known here."""
    if len(words.words) < _FEWEST_WORDS:
        return None
    counts: dict[str, int] = dict.fromkeys(_FUNCTION_WORDS, 0)
    for word in words.words:
        for name in _OF.get(word, ()):
            counts[name] += 1
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] >= _LEAST_SHARE * len(words.words) else "unknown"
