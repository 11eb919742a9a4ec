"""Facts and events that a text can state, with questions whose answers are spans of it.

A fact is ``kind: (sentences, questions)``; {p} is whom it is about, {v} the value. An event is a
verb with who, what, where and when, any of which may be asked for.
"""

FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "job": (("{p} is a {v}.", "{p} works as a {v}.", "{p} has been a {v} for many years.",
             "{p}, a {v}, came early."),
            ("What is the job of {p}?", "What does {p} do for a living?",
             "What does {p} work as?", "What is {p}'s profession?")),
    "city": (("{p} lives in {v}.", "{p} moved to {v} last year.", "The home of {p} is in {v}.",
              "{p}, who lives in {v}, was there."),
             ("Where does {p} live?", "In which city does {p} live?", "What city does {p} live in?",
              "Where is the home of {p}?")),
    "birthplace": (("{p} was born in {v}.", "{p} is a native of {v}."),
                   ("Where was {p} born?", "In which city was {p} born?")),
    "year": (("{p} was born in {v}.", "{p} came into the world in {v}."),
             ("When was {p} born?", "In which year was {p} born?", "What year was {p} born in?")),
    "founded": (("{p} founded a company in {v}.", "In {v}, {p} opened a shop."),
                ("When did {p} start a business?", "In which year did {p} start out?")),
    "pet": (("{p} has a pet {v}.", "{p} keeps a {v} at home.", "{p} owns a {v}."),
            ("What pet does {p} have?", "Which animal does {p} own?",
             "What animal does {p} keep?")),
    "colour": (("The favourite colour of {p} is {v}.", "{p} likes the colour {v} best."),
               ("What is the favourite colour of {p}?", "Which colour does {p} like best?",
                "What is {p}'s favourite colour?")),
    "food": (("{p} loves to eat {v}.", "The favourite food of {p} is {v}.",
              "{p} eats {v} every day."),
             ("What does {p} like to eat?", "What is the favourite food of {p}?",
              "What is {p}'s favourite food?")),
    "hobby": (("{p} enjoys {v}.", "The hobby of {p} is {v}.", "On weekends {p} goes {v}."),
              ("What is the hobby of {p}?", "What does {p} do for fun?", "What does {p} enjoy?")),
    "friend": (("The best friend of {p} is {v}.", "{p}'s best friend is called {v}."),
               ("Who is the best friend of {p}?", "What is the name of {p}'s best friend?")),
    "sister": (("{p} has a sister called {v}.", "{p}'s sister is {v}."),
               ("Who is the sister of {p}?", "What is the name of {p}'s sister?")),
    "brother": (("{p} has a brother called {v}.", "{p}'s brother is {v}."),
                ("Who is the brother of {p}?", "What is the name of {p}'s brother?")),
    "teacher": (("{p} was taught by {v}.", "The teacher of {p} was {v}."),
                ("Who taught {p}?", "Who was the teacher of {p}?")),
    "age": (("{p} is {v} years old.", "{p} turned {v} this year.", "{p} is {v}."),
            ("How old is {p}?", "What is the age of {p}?", "What is {p}'s age?")),
    "company": (("{p} works for {v}.", "{p} has an office at {v}.", "{p} is employed by {v}."),
                ("Which company does {p} work for?", "Where does {p} work?",
                 "Who does {p} work for?")),
    "country": (("{p} comes from {v}.", "{p} grew up in {v}."),
                ("Which country is {p} from?", "What country does {p} come from?",
                 "Where is {p} from?")),
    "amount": (("{p} paid {v} dollars.", "{p} owes {v} dollars.", "It cost {p} {v} dollars."),
               ("How many dollars was it for {p}?", "How much money is named for {p}?")),
    "instrument": (("{p} plays the {v}.", "{p} is learning the {v}."),
                   ("What does {p} play?", "Which instrument is named for {p}?")),
    "place": (("The {p} is in {v}.", "You can find the {p} in {v}.", "The {p} was taken to {v}."),
              ("Where is the {p}?", "In which place is the {p}?", "Where can you find the {p}?")),
    "paint": (("The {p} is {v}.", "The {p} was painted {v}.", "The colour of the {p} is {v}."),
              ("What colour is the {p}?", "Which colour does the {p} have?")),
    "owner": (("The {p} belongs to {v}.", "{v} owns the {p}.", "The owner of the {p} is {v}."),
              ("Who owns the {p}?", "Who does the {p} belong to?", "Whose is the {p}?")),
    "maker": (("The {p} was made by {v}.", "{v} made the {p}.", "{v} built the {p}."),
              ("Who made the {p}?", "By whom was the {p} made?")),
    "price": (("The {p} costs {v} euros.", "You can have the {p} for {v} euros."),
              ("How much does the {p} cost?", "What is the price of the {p}?")),
    "code": (("The number of the {p} is {v}.", "The {p} has the number {v}."),
             ("What is the number of the {p}?", "Which number does the {p} have?")),
    "anything": (("The {p} is called {v}.", "They call the {p} {v}.", "The {p} has the name {v}."),
                 ("What is the {p} called?", "What is the name of the {p}?",
                  "How do they call the {p}?")),
}  # fmt: skip
ABOUT_THINGS = ("place", "paint", "owner", "maker", "price", "code", "anything")

# base, past, past participle
VERBS: tuple[tuple[str, str, str], ...] = tuple(
    (base, past, done)
    for base, past, done in (
        line.split()
        for line in """find found found
        buy bought bought
        sell sold sold
        lose lost lost
        steal stole stolen
        paint painted painted
        repair repaired repaired
        break broke broken
        hide hid hidden
        bring brought brought
        see saw seen
        draw drew drawn
        clean cleaned cleaned
        carry carried carried
        forget forgot forgotten
        take took taken
        build built built
        open opened opened
        wash washed washed
        keep kept kept
        drop dropped dropped
        borrow borrowed borrowed
        rent rented rented
        order ordered ordered
        deliver delivered delivered
        burn burned burned
        bury buried buried
        catch caught caught
        throw threw thrown
        move moved moved
        choose chose chosen
        sign signed signed
        design designed designed
        invent invented invented
        discover discovered discovered
        visit visited visited""".splitlines()
    )
)
# {p} who, {past}/{done} verb, {t} what, {c} where, {w} when
EVENTS = (
    "{p} {past} {t} in {c} on {w}.", "On {w}, {p} {past} {t} in {c}.", "In {c}, {p} {past} {t}.",
    "{p} {past} {t} on {w}.", "{t} was {done} by {p} in {c}.", "{p} {past} {t}.",
    "It was {p} who {past} {t} in {c}.", "On {w} {t} was {done} by {p}.",
)  # fmt: skip
EVENT_QUESTIONS: dict[str, tuple[str, ...]] = {
    "p": ("Who {past} {t}?", "By whom was {t} {done}?", "Which person {past} {t}?"),
    "t": ("What did {p} {base}?", "What was {done} by {p}?", "Which thing did {p} {base}?"),
    "c": ("Where did {p} {base} {t}?", "In which city was {t} {done}?", "Where was {t} {done}?"),
    "w": ("When did {p} {base} {t}?", "On which day was {t} {done}?", "When was {t} {done}?"),
}

FRAMES = (
    "{t}\n\n{q}", "{t}\n{q}", "{t} {q}", "Read the text and answer the question.\n\n{t}\n\n{q}",
    "Text: {t}\nQuestion: {q}", "Text: {t}\n\nQuestion: {q}\nAnswer:", "{q}\n\n{t}",
    "Answer the question from the text.\nText: {t}\nQuestion: {q}", "Here is a text: {t}\n{q}",
    "Context: {t}\n\nQuestion: {q}", "Use the paragraph to answer.\n\n{t}\n\n{q}",
    "Passage:\n{t}\n\n{q}", "Given this paragraph, {q}\n\n{t}", "{t}\n\nQuestion: {q}",
    "Passage: {t}\n\nQuestion: {q}\n\nAnswer with words of the passage.", "Story: {t}\n\n{q}",
    "{t}\n\nAnswer in as few words as possible: {q}", "Based on the text, {q}\n\n{t}",
)  # fmt: skip
FILLER = (
    "The weather was fine that day.", "It rained a little in the morning.", "The grass is green.",
    "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.",
    "Nobody knew what would come next.", "The streets were full of people.", "It was late.",
    "The old house stood at the end of the road.", "A clock struck somewhere.",
    "Most of the shops were closed.", "The train was on time.", "Children played in the park.",
    "Everyone was glad to be there.", "The music could be heard from far away.",
    "Winter came early that year.", "The coffee was still warm.", "A letter lay on the table.",
    "The door was open.", "They talked for a long time.", "It was not easy at first.",
    "The news spread quickly.", "In the evening the wind grew stronger.", "All was quiet.",
)  # fmt: skip
AFTER = (
    'Which word comes after "{x}"?', 'What is the next word after "{x}" in the text?',
    'Complete the words of the text: "{x}"', 'In the text, what follows "{x}"?',
)  # fmt: skip
BEFORE = ('Which word comes before "{x}"?', 'In the text, which word is before "{x}"?')
SAID = ('Who said "{x}"?', 'Who says "{x}"?', '"{x}" Who said that?')
