"""How well text reads, as evidence for the encoding it was decoded with.

`score_text` gives the log-likelihood of a text under the language that explains it best: each non-ASCII character by
its rank in the alphabet and its neighbours (a unit after a digit, no capital inside a word), plus the commonest words.
Readings of the same bytes in different encodings can be compared.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from math import log
from typing import NamedTuple

TABLE = """
en éèñöüïçêáâàôë
  the of and to in is that for it with as was on be at by this are from or an have not you
de üäöß
  der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat
fr éèàêçôîùûâœïëüæ
  de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec vous je ou
es óíáéñúü¿¡
  de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si sin
it èàòùìé
  di e il la che in un a per del è non una con si da le della sono i al come più dei ma nel gli lo alla ha
pt ãçéáíóêõâàúôü
  de a o que e do da em um para com não uma os no se na por mais as dos como mas foi ao ele das tem à seu
ca èàéóíòçúïü·
  de la i a que el en l un les per una d els amb del és no es al més com s o són seva va ha ser
nl ëéïèöüêá
  de van het een en in is dat op te zijn met voor niet aan er om ook als dan maar bij of uit nog naar worden u
af êëéïôîûè
  die van en in is het te nie dat vir wat met op hy om as ek sy word aan was deur
da åøæéö
  og i at det er en til af på de med for der den ikke som et fra har han kan du jeg om var skal
nb åøæéòôó
  og i det er på til som en av for at med de å har den ikke et om fra var kan vi du jeg seg skal
sv äöåéü
  och i att det som en på är av för med den till de inte om ett har jag han var du från kan så vi
fi äöåšž
  ja on ei se että oli hän en ole mutta kun tai joka myös ovat niin kuin sen mitä voi minä tämä
is íáðóúöéþýæ
  og að í á er sem til um við en það ekki með var af fyrir hann ég því eru hefur ekki
ga áíéóú
  an na agus a ar is i do le go bhí sé ag leis ach nach ní tá
cy âôŵêŷîûïëá
  y yn a i o yr ei ar ac mae wedi bod am eu gan fod hefyd hwn
sq ëç
  të e në dhe për me që një i se nga është ka do më u si
et äõüöšž
  ja on ei ta et see oli kui ka mis seda oma aga nii või ning mida kes
lv āīēšūžņļčķģ
  un ir ka ar no par uz kas lai tas kā pie vai bet nav arī tiek gan būs
lt ėšžųįūčąę
  ir yra kad su iš tai į ne kaip bet jis už buvo o apie tik ar nuo dar
pl łąęóżśćńź
  i w na z do się nie to że jest o jak a po co tym dla od przez tak są za ale jego przy oraz był
cs íáěéřčžšýůúťďňóöü
  a v se na je že to s z do o i k ve pro by ale jako za po jsou co tak jsem si od jeho jen už
sk áíčéýžšľúôťňäďóŕĺö
  a v sa na je že to s z do o aj ako pre ale za po si sú by od tak som jeho už pri čo k
hu áéöóőüíúű
  a az és hogy nem is egy van ez meg de volt csak ha mint vagy már még azt kell ki el minden lehet
sl čšžćđ
  in je v na se da za so z ne ki pa po o tudi bi kot od s pri še kako ali le
hr čšžćđ
  i u je na se da za su od s o a ne kao koji to iz što će bi ili po sam ako koje do nije te
ro ăîţâşșțáé
  de și în a la cu nu o că pe un se din este să pentru care mai ce au sau şi prin
tr ıüşğçöİâî
  ve bir bu da de için ile o çok daha olarak gibi ne var kadar sonra en olan ama her değil
mt ħżġċàùì
  il li ta u l fil tal ma minn għal dan din hija kien
eo ŭĝĉŝĵĥ
  la de kaj en estas al ne por kiu mi li vi ke kun el sed oni ĝi estis pri
vi đáàảãạâăêôơư
  và của có là trong cho không người một các được với
ru оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё
  и в не на что с он я как а по это из к но у за все от то так же о его для бы ты вы если или при
uk оаниівтеркслдупмяьзгбчйхжшюєїцщфґ
  і в на не що з та у до за як це але від по для його про або якщо є із чи
bg аоиетнрсвлкпдмзъубгяячщхжцшфйью
  и на да се в от за е не с по са че като той до си ще или това при има
sr аоиенртсјвкудпмлзгбчшцжћхђљњфџ
  и је у да се на за су не од са о као који то из што би или по сам
mk аоиентрсвкдплумзбгјчшцжќхѓњљџфѕ
  и на во да се од за е не со ги го што си ќе како тоа или по
be аніыректалусодзвпмьбягцчкйжшхюўэфё
  і ў не на што з як да у а за гэта па але для яго ад
el αοιετσνηυρπκμλςίωόάγέδήθφύχώβξζψϊϋΐΰ
  και το να του η της με για που την από τα των ο τον στο οι είναι στην θα δεν τη ένα
he יוהלאתרבמשנדחקפעםגסטצזכןךץף
  של את על לא הוא זה עם גם כי או אם כל היא אני יש
ar الينموتربةعدسفهكقحجشطصخأإذىءثضزئغظآؤ،
  في من على أن إلى هذا عن مع ما لا التي أو كان و هذه
fa ایرندهموتبسشکزلگقخفعحجپصطغچضثظذژءآ،
  و در به از که این را با است برای آن یک خود تا
th านรอกเง่มยลว้ีทัดะสตปคบแขจหไพชใโุำผึิ์ื็ูถซศณญธภฐฟษฉฮฯๆ
  -
zh
  -
ja のにはをたがとでてしいなるれかさもらこりっまくよきあうけそんだすちえわめせみつおやどねろじばべほひふンス
  -
ko 이다는의에가을고하지한도로어사은리기나들를아그게만시서자인과있해보것으라수여일대스정구주전부
  -
"""
"""Languages by their ISO 639 code: the letters beyond ASCII, the commonest first; then the commonest words."""

COMMON_JAPANESE = (
    "イトルラアリクドシレマジフカタロコプテムバサチュッーィデメグニャョナキオソパウ"
    "日一国人年大十二本中長出三時行見月後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先名川千水半男"
    "西電校語土木聞食車何南万毎白天母火右読友左休父雨会同事自社発者地業方新場員立開手力問代明動京目通言理体田主題意"
    "不作用度強公持野以思家世多正安院心界教文元重近考画海売知道集別物使品計死特私始朝運終台広住無真有口少町料工建空"
    "急止送切転研足究楽起着店病質待試族銀早映親験英医仕去味写字答夜音注帰歌悪図室歩風紙黒花春赤館屋色走秋夏旅服借飲"
    "堂鳥勉冬昼茶弟魚兄犬対和全相部政内定機経法性関成化数実様記現所保期的第点変表加解選最直連得決結権"
)
"""The katakana and the commonest characters of Japanese, after its hiragana."""

COMMON_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然"
    "家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机"
    "十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西"
    "斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活更别打女"
    "变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基"
    "眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今"
    "切院让识候带导争运笔這個們來為國時說會對過發後裡裏種經學現當沒動還進樣開從實軍與長機無點關業將兩間問應戰體見產"
    "給門員論處義認條係氣題爾總電數報結務場計資統區隊許書則聽卻達強難權據邊張該規領確傳師觀讓識帶導爭運於麼幾變"
)


class Language(NamedTuple):
    """A language as evidence: the log-probability of each letter, its script, and its commonest words."""

    script: str
    letters: dict[str, float]
    words: frozenset[str]


def script_of(char: str) -> str:
    """LATIN, CYRILLIC, GREEK, CJK and so on; "" for what is no letter."""
    if char < "\u0250":
        return "LATIN" if char.isalpha() else ""
    return unicodedata.name(char, "").split(" ")[0] if char.isalpha() or unicodedata.combining(char) else ""


def parse_table(lines: list[str]) -> dict[str, Language]:
    """The table: two lines a language. A letter of rank n has a share of 1 / (n + 2), a capital a tenth of that."""
    languages = {}
    for head, words in zip(lines[::2], lines[1::2], strict=True):
        code, _, alphabet = head.partition(" ")
        alphabet += COMMON_JAPANESE if code == "ja" else ""
        total = sum(1 / (rank + 2) for rank in range(len(alphabet)))
        letters = {}
        for rank, letter in enumerate(alphabet):
            letters[letter] = log(0.9 / (rank + 2) / total)
            if letter.upper() != letter and len(letter.upper()) == 1:
                letters.setdefault(letter.upper(), letters[letter] - 2.3)
        languages[code] = Language(script_of(alphabet[:1] or "一"), letters, frozenset(words.split()))
    return languages


LANGUAGES = parse_table(TABLE.strip().split("\n"))

PLAIN_CHAR = log(1 / 20)
FOREIGN = log(0.001)
"""A letter of the language's script that is not in its alphabet: a name."""
OTHER_SCRIPT = log(2e-5)
UNKNOWN = log(1e-5)
"""Controls, unassigned characters, signs no text has."""
BROKEN = -40.0
SIGN = log(0.01)
MIN_EXPECTED = log(8e-5)
"""What is likelier than this is what the language has."""
IDEOGRAPHS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")
QUOTES = frozenset("‘’‚“”„…–—«»•·\xa0‹›′″‧")
JOINING = frozenset("’‘–—·•\xa0")
SIGNS = frozenset("µ°²³¹½¼¾±×÷§©®€£¥¢™ªº¶¡¿†‡‰№")
BEFORE_LETTERS = frozenset("µ°©€£¥§¡¿½¼¾×±№")
WORD = re.compile(r"[^\W\d_]+")
IN_CONTEXT = re.compile(r"(?s)(?=(.[^\x00-\x7f].))")
REPEATED = re.compile(r"([^\x00-\x7f])\1{2,}")


class LanguageScore(NamedTuple):
    """How a text reads in its best language: `score` is the log-likelihood, `mean` that of a non-ASCII character,
    `explained` the share of non-ASCII characters usual in that language at that place.
    """

    score: float
    language: str
    explained: float
    mean: float


def score_text(text: str) -> LanguageScore:
    """The best reading of a text with at least one character beyond ASCII."""
    text = " " + REPEATED.sub(r"\1", text) + " "
    places: Counter[tuple[str, float]] = Counter()
    for stretch, count in Counter(IN_CONTEXT.findall(text)).items():
        places[context_penalty(stretch)] += count
    words = Counter(WORD.findall(text.lower()))
    n_beyond = sum(places.values())
    scripts: Counter[str] = Counter()
    for (char, _), count in places.items():
        scripts[script_of(char)] += count
    scripts["HIRAGANA"] += scripts["KATAKANA"]
    most = max([count for script, count in scripts.items() if script], default=0)
    best = max(
        (score_language(code, places, words), code)
        for code, language in LANGUAGES.items()
        if code == "en" or (scripts[language.script] and scripts[language.script] >= 0.1 * most)
    )
    score, code = best
    good = sum(
        count
        for (char, malus), count in places.items()
        if malus > -2.5 and char_log_prob(code, char) > MIN_EXPECTED
    )
    return LanguageScore(score + PLAIN_CHAR * (len(text) - n_beyond), code, good / n_beyond, score / n_beyond)


def score_language(code: str, places: Counter[tuple[str, float]], words: Counter[str]) -> float:
    """The log-likelihood of the characters beyond ASCII in a language, and its words for as much as they prove."""
    score = sum(count * (char_log_prob(code, char) + malus) for (char, malus), count in places.items())
    common = [word for word in LANGUAGES[code].words if word in words]
    return score + sum(words[word] * (1.5 if len(word) > 1 else 0.7) for word in common)


@functools.lru_cache(1 << 16)
def context_penalty(stretch: str) -> tuple[str, float]:
    """A character beyond ASCII between its neighbours, and how unlikely they make it: in nats, 0 for not at all."""
    before, char, after = tuple(stretch)
    if char in QUOTES:
        inside = before.isalpha() and after.isalpha() and char not in JOINING
        return char, -4.0 if inside else -3.0 if char == "‚" else 0.0
    if char in SIGNS:
        good = not after.isalpha() or (char in BEFORE_LETTERS and not before.isalpha() and after.isascii())
        return char, 0.0 if good else -5.0
    if char.isupper() and before.islower():
        return char, -4.0
    plain = before.isascii() and before.isalpha(), after.isascii() and after.isalpha()
    beyond = before > "\x7f" and before not in QUOTES, after > "\x7f" and after not in QUOTES
    if script_of(char) == "LATIN":
        odd = beyond[0] or (beyond[1] and not plain[0])
        return char, -3.0 if before.isdigit() else -1.5 if odd or not (any(plain) or any(beyond)) else 0.0
    return char, (0.0 if not any(plain) else -0.5 if any(beyond) else -3.0)


@functools.cache
def char_log_prob(code: str, char: str) -> float:
    """The log-probability of one character beyond ASCII in a language."""
    language = LANGUAGES[code]
    if (known := language.letters.get(char)) is not None:
        return known
    if char in QUOTES or char in SIGNS:
        return SIGN
    if char == "\ufffd":
        return BROKEN
    script = script_of(char)
    if script in IDEOGRAPHS:
        own = language.script == script or (code == "ja" and script in ("CJK", "KATAKANA"))
        return ideograph_log_prob(char, code) + (0 if own else FOREIGN)
    if not script:
        return SIGN if "\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uff5e" else UNKNOWN
    return FOREIGN if script == language.script else OTHER_SCRIPT


@functools.cache
def ideograph_log_prob(char: str, code: str) -> float:
    """A Chinese character, a kana or a syllable of Hangul by how common the standards of a language make it."""
    if char in COMMON_CHINESE and code != "ko":
        return log(1.2e-3)
    if "\u3041" <= char <= "\u30fe":
        return log(3e-3)
    for codec, first, last in FIRST_LEVELS.get(code, FIRST_LEVELS["zh"]):
        try:
            if first <= char.encode(codec)[0] <= last:
                return log(1e-4)
        except UnicodeEncodeError:
            continue
    return log(2e-6)


FIRST_LEVELS = {
    "zh": (("gb2312", 0xB0, 0xD7), ("big5", 0xA4, 0xC6)),
    "ja": (("euc_jp", 0xB0, 0xCF),),
    "ko": (("euc_kr", 0xB0, 0xC8),),
}
"""Where each standard has its common characters: the codec, and the first and last lead byte."""
