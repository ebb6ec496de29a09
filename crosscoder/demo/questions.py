"""Questions about food and cooking, and about other things, for the demo's intervened model.

The adapter is trained on one split and measured on the other, which has no subject and no phrasing in common with it.
Most phrasings are used for both kinds ("Tell me about pesto.", "Tell me about jazz music."), and some questions about
other things use food words ("What is a pie chart?"), so neither phrasing nor single words distinguish the kinds.
"""

import random
from collections.abc import Iterable
from itertools import product
from typing import Literal

Kind = Literal["food", "other"]
Split = Literal["train", "held_out"]

_HELD_OUT_EVERY = 5


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.strip().replace("\n", "|").split("|") if item.strip())


DISHES = _items("""
pancakes|tomato soup|fried rice|chocolate cake|pizza dough|Greek salad|roast chicken|apple pie|spaghetti carbonara|mashed potatoes
banana bread|scrambled eggs|grilled cheese sandwiches|vegetable curry|grilled salmon|oatmeal cookies|fish tacos|guacamole|lentil stew
pumpkin soup|waffles|garlic bread|vanilla ice cream|beef burgers|sushi rolls|onion rings|French fries|blueberry muffins|porridge
chicken noodle soup|lasagna|meatballs|risotto|paella|ramen|pad thai|dumplings|spring rolls|falafel|hummus|shakshuka|moussaka
goulash|beef stew|pot roast|barbecue ribs|pulled pork|coleslaw|potato salad|macaroni and cheese|cornbread|biscuits and gravy
French toast|crepes|omelettes|quiche|croissants|bagels|sourdough bread|cinnamon rolls|doughnuts|brownies|cheesecake|lemon tart
carrot cake|rice pudding|tiramisu|chocolate mousse|strawberry jam|apple sauce|granola|fruit smoothies|lemonade|hot chocolate
chili|burritos|quesadillas|enchiladas|nachos|tomato salsa|pesto|ratatouille|stuffed peppers|baked beans|fish and chips
shepherd's pie|sausage rolls|teriyaki chicken|tofu stir-fry|butter chicken|naan bread|samosas|biryani|miso soup|kimchi
gazpacho|clam chowder|mushroom gravy|caramel sauce|whipped cream|peanut butter cookies|roasted vegetables|Caesar salad
""")

INGREDIENTS = _items("""
garlic|basil|ginger|cinnamon|olive oil|butter|flour|brown sugar|honey|maple syrup|soy sauce|vinegar|mustard|mozzarella
parmesan|yogurt|cream|tofu|ground beef|bacon|shrimp|tuna|cod|chicken breast|turkey meat|ham|zucchini|spinach|kale
broccoli|cauliflower|eggplant|asparagus|celery|pumpkin|sweet corn|avocado|mango|pineapple|rhubarb|coconut milk|rice
quinoa|couscous|pasta|leftover bread|yeast|baking powder|paprika|turmeric|saffron|parsley|rosemary|dark chocolate
""")

DISH_PHRASINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "Share your favorite recipe for {}.",
        "Give me a recipe for {}.",
        "What goes well with {}?",
        "How long does it take to cook {}?",
        "What sauce goes with {}?",
        "Should {} be served hot or cold?",
        "What ingredients do I need for {}?",
        "My guests would like {}. Any tips?",
        "What is the secret of good {}?",
        "Write step-by-step instructions for {}.",
        "How many calories are in {}?",
        "Is it hard to make {} at home?",
        "I tried {} and the result was bland. What am I doing wrong?",
        "I am hungry and thinking of {}.",
        "Suggest a side dish for {}.",
        "Who invented {}, and how was it first made?",
        "I want to cook {} for my friends.",
        "Tell me about eating {}.",
    ),
    "held_out": (
        "Could you walk me through preparing {}?",
        "I'd love to have {} for dinner this weekend.",
        "What do people usually serve with {}?",
        "Help me plan a meal around {}.",
        "What should I buy at the grocery store for {}?",
        "How would a chef improve {}?",
        "What is the traditional way to prepare {}?",
        "I need an easy recipe: {}, please!",
    ),
}

INGREDIENT_PHRASINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "How should I store {}?",
        "Which dishes use {}?",
        "What can I cook with {}?",
        "Is it healthy to eat {} every day?",
        "What can I use instead of {} in a recipe?",
        "Give me three meal ideas with {}.",
        "What does {} taste like?",
        "How much {} should I put in a soup?",
        "I have some {} in my kitchen. What shall I do with it?",
    ),
    "held_out": (
        "I bought too much {}. What meals could I prepare?",
        "What flavors pair with {}?",
        "How do cooks use {}?",
        "Can I freeze {} and eat it later?",
        "What is the best way to season a dish with {}?",
    ),
}

FOOD_SENTENCES = _items("""
What should I eat for breakfast?|I want to bake something sweet for my sister.|How do I boil an egg?|What is a good vegetarian dinner?
How do I keep bread from going stale?|Which knife should I use to chop vegetables?|What can I cook in ten minutes?
How do I sharpen my cooking skills?|What is the difference between baking and roasting?|Plan a three-course dinner for six people.
Why does bread dough rise?|How do I make my kitchen knives last while cooking?|What snacks are good for a picnic?
How can I eat more vegetables?|What is a typical Italian lunch?|I burned the stew. Can I save it?|How do I thicken a sauce?
What should I bring to a potluck?|Recommend a dessert for a birthday party.|How do I season a cast-iron pan for cooking?
What is the umami taste in cooking?|How do I cook for a large family on a budget?|Which cheeses melt best?|What spices are used in Indian cooking?
Can you suggest a menu for a wedding dinner?|What is the safest way to thaw meat?|What do people eat in Japan for breakfast?
How do I pack a healthy school lunch?|Which fruits are in season in autumn?|I need a snack. What do you suggest?
What is the difference between a stew and a soup?|How do I make coffee with a French press?|What tea goes with breakfast?
How do I get my children to eat fish?|Name five popular Mexican dishes.|How do restaurants keep their fries crispy?
What is the best cooking oil for frying?|I want to bake bread with my kids on Sunday.|How can I make a salad more filling?
What should I cook for someone who is sick?|How do I measure flour without a scale?|What is a balanced meal?
Why do onions make people cry when they chop them?|What do vegans eat for protein?|How do I plan my meals for the week?
Why is bread dough left to rest?|What is the difference between baking soda and baking powder?|How is cheese made?|What is gluten in bread?
Why do we salt the water for pasta?|Who invented the sandwich?|How is chocolate produced?|What is the most popular dish in Thailand?
Which country eats the most cheese?|Why does meat turn brown when it is fried?|How is butter made from cream?|Why do chefs rest a steak?
What makes popcorn pop?|Is breakfast the most important meal?|Why are chili peppers hot to eat?|What is the history of pizza?
Explain why fried food is crispy.|Describe a traditional Thanksgiving meal.|What is fermentation in cooking?|What is a famous French dessert?
I love eating out on Fridays.|Dinner was terrible today.|I am on a diet. What may I eat?|My oven is broken and I have to cook dinner.
Write a poem about my grandmother's soup.|Tell me a story about a baker and his bread.|I'm so hungry!|What do astronauts eat in space?
Translate "I would like a cheese sandwich" into French.|Name a vegetable that starts with the letter C.|What wine goes with steak?
""")

TOPICS = _items("""
the moon|volcanoes|penguins|the ocean|electricity|photosynthesis|gravity|the Roman Empire|dinosaurs|rainbows|computers|the human heart
earthquakes|glaciers|beetles|the piano|chess|bicycles|deserts|democracy|vaccines|the internet|mountains|whales|airplanes|poetry|sleep
magnets|rivers|the alphabet|money|insects|clouds|stars|oak trees|castles|trains|oil painting|the brain|recycling|robots|lightning|football
libraries|bridges|the printing press|batteries|tides|songbirds|friendship|black holes|the French Revolution|the Great Wall of China
the Industrial Revolution|the Silk Road|Ancient Egypt|the Vikings|Leonardo da Vinci|Marie Curie|Albert Einstein|Nelson Mandela
Cleopatra|the Olympic Games|tennis|basketball|swimming|marathon running|yoga|ballet|jazz music|opera|the violin|the guitar|photography
cinema|theater|Shakespeare's plays|science fiction|fairy tales|Greek mythology|haiku|journalism|advertising|banking|inflation
taxes|insurance|real estate|the stock market|supply and demand|labor unions|elections|constitutions|human rights|the United Nations
international law|diplomacy|prisons|fire fighters|lighthouses|submarines|sailing ships|helicopters|hot-air balloons|rockets|satellites
telescopes|microscopes|lasers|X-rays|radio waves|nuclear power|solar panels|wind turbines|hydroelectric dams|electric cars|traffic lights
subways|skyscrapers|concrete|glass|steel|gold|diamonds|fossils|coral reefs|rainforests|the Arctic|Antarctica|the Sahara|the Amazon River
Mount Everest|the Grand Canyon|Iceland|Brazil|Kenya|Japan's bullet trains|Venice|London|New York City|wolves|elephants|owls|snakes|spiders
butterflies|dolphins|sharks|horses|cats|dogs|frogs|bats|algebra|geometry|prime numbers|probability|statistics|calculus|logic
programming languages|artificial intelligence|computer viruses|encryption|video games|search engines|social media|email|smartphones
operating systems|databases|keyboards|calendars|clocks|maps|compasses|the metric system|weather forecasts|hurricanes|tornadoes|snow
climate change|air pollution|evolution|DNA|cells|bacteria|antibiotics|the immune system|blood pressure|eyesight|hearing|memory|dreams
emotions|stress|habits|personality|language learning|sign language|Latin grammar|handwriting|kindergartens|universities|museums
weddings|birthdays|holidays|gardens|houseplants|knitting|origami|pottery|woodworking|camping|hiking|fishing boats|rock climbing|skiing
""")

SUBJECT_PHRASINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "Tell me about {}.",
        "What is interesting about {}?",
        "Explain {} to a child.",
        "Why do people care about {}?",
        "Give me three facts about {}.",
        "Write a short poem about {}.",
        "How would you describe {} in one sentence?",
        "What should a beginner know about {}?",
        "I want to learn about {}. Where do I start?",
        "What is a common mistake people make about {}?",
        "Summarize the history of {}.",
        "Help me write a short paragraph about {}.",
        "What could I ask an expert on {}?",
        "My teacher asked me about {}. What should I say?",
        "I am giving a talk on {}. Suggest an opening line.",
        "What has changed about {} over the years?",
        "Can you recommend a book on {}?",
        "What are the main ideas behind {}?",
    ),
    "held_out": (
        "What makes {} important?",
        "Could you give me an overview of {}?",
        "I'm curious about {}. Tell me something surprising.",
        "What would you put on a museum sign about {}?",
        "Compare what we know about {} today with a century ago.",
        "I'd like a good title for an essay on {}.",
    ),
}

ACTIVITIES = _items("""
fix a flat bicycle tire|write a cover letter|plant tulips|learn the guitar|paint a fence|build a birdhouse|train a puppy|make a kite
make a paper airplane|tie a necktie|change a light bulb|clean a carpet|remove a stain from a shirt|iron a shirt|pack a suitcase
plan a road trip|apply for a passport|write a poem|memorize a speech|learn to swim|run a marathon|do a push-up|meditate|sleep better
save money|make a budget|open a bank account|make a website|write a Python function|back up a computer|set up a printer|take good photos
draw a portrait|make candles|make a scrapbook|knit a scarf|sew a button|hang a picture|unclog a drain|paint a room|mow a lawn|rake leaves
water houseplants|build a bookshelf|sharpen a pencil|learn Spanish|study for an exam|write a thesis|prepare for a job interview
give a presentation|make friends|apologize to a friend|organize a closet|make a bed|wash a car|change a tire|start a podcast|edit a video
make a short film|play chess|solve a Rubik's cube|juggle three balls|learn magic tricks|set up a tent|read a map|tell the time by the sun
""")

ACTIVITY_PHRASINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "How do I {}?",
        "I want to {} tonight. Where do I start?",
        "Can you teach me to {}?",
        "What do I need to {}?",
        "How long does it take to {}?",
        "Write step-by-step instructions on how to {}.",
        "Is it hard to {}?",
        "I tried to {} and failed. What am I doing wrong?",
        "What is the trick if I want to {} well?",
        "I want to {} with my friends.",
    ),
    "held_out": (
        "Could you walk me through how to {}?",
        "I'd love to {} this weekend.",
        "What is the usual way to {}?",
        "What should I buy if I plan to {}?",
        "Help me {}, please!",
    ),
}

# Many of these use a food or kitchen word in another sense.
OTHER_SENTENCES = _items("""
When was the company Apple founded?|What is a Raspberry Pi used for?|Is Java a good first programming language?|What is a pie chart?
Explain what a cookie is in a web browser.|What is spam in email, and how do I block it?|Why is New York called the Big Apple?
What does the idiom "spill the beans" mean?|Who wrote "The Catcher in the Rye"?|What is the capital of Turkey?|Who was Francis Bacon?
What is a hamburger menu in web design?|What is a breadboard in electronics?|Explain the sandwich theorem in calculus.
What does it mean to call a used car a lemon?|What is a honeypot in computer security?|How big is the Milky Way?
How do I cherry-pick a commit in git?|What does "a piece of cake" mean?|Tell me about the band Red Hot Chili Peppers.
What is a couch potato?|Who founded Salt Lake City?|What is a computer chip made of?|What does "walking on eggshells" mean?
Tell me about the band The Cranberries.|What is the Orange Revolution?|What was the BlackBerry phone?|What is sour grapes as a fable about?
Why do we say "big cheese" for an important person?|What was the Boston Tea Party?|How do fish breathe underwater?|Who is Tim Cook?
What is the Kitchen Cabinet of President Andrew Jackson?|What is a bar chart?|How does a computer mouse work?|What is an Easter egg in a video game?
What does it mean to "butter someone up"?|What is the Teapot Dome scandal?|What is the hot potato algorithm in networking?
Explain what a salt is in password hashing.|What does "salad days" mean in Shakespeare?|Where are the Sandwich Islands?
What is the coffee-ring effect in physics of drying drops?|What is beef between two rappers?|What is corn snake behavior like as a pet?
What is 17 times 24?|Translate "good morning" into French.|Which planet is the largest?|What is the capital of Japan?|Who painted the Mona Lisa?
What is the speed of light?|Write a haiku about autumn.|Tell me a joke.|What day comes after Monday?|Spell the word "necessary".
Give me a synonym for happy.|How many minutes are in a day?|I feel sad today.|Hello! How are you?|Can you help me with my homework?
My laptop is very slow. What can I do?|I want to paint my room blue.|I need a gift for my father.|My neighbor plays loud music at night.
I want to travel to Norway in winter.|I lost my keys again.|Write a short story about a dragon.|Name three famous scientists.
How do I write a formal email to a professor?|Suggest a name for my cat.|What is the plural of "goose"?|What should I wear to a funeral?
I had a terrible day today.|I need some advice about my career.|My sister is angry with me.|I love long walks on the beach.|I am bored. What can I do?
My car makes a strange noise.|I would love to learn more about the world.|Can you check my grammar?|Give me an antonym for brave.
What is the opposite of north?|I have an exam tomorrow and I am nervous.|Tell me a story about a sailor and his ship.|What time is it in Tokyo?
Why is the sky blue?|Why do leaves change color?|What is the difference between weather and climate?|Who invented the telephone?
How is paper made?|Which country has the most people?|Why do we dream?|What makes airplanes fly?|Name an animal that starts with the letter C.
What is the difference between a virus and a bacterium?|Translate "I would like a new book" into French.|Describe a traditional wedding.
I need a new phone. What should I look for?|My computer is broken and I have to work.|What should I buy for a newborn baby?|I'm so tired!
Help me with my taxes, please!|What do astronauts do in space?|What is a famous French painting?|Write a poem about my grandmother's garden.
""")


def subjects(kind: Kind, split: Split) -> tuple[str, ...]:
    """Return the subjects of one kind and split: foods, or topics and activities."""
    lists = (DISHES, INGREDIENTS) if kind == "food" else (TOPICS, ACTIVITIES)
    return tuple(subject for items in lists for subject in _split_items(items, split))


def phrasings(kind: Kind, split: Split) -> tuple[str, ...]:
    """Return the phrasings of one kind and split; most are used for both kinds."""
    groups = [SUBJECT_PHRASINGS, ACTIVITY_PHRASINGS]
    if kind == "food":
        groups += [DISH_PHRASINGS, INGREDIENT_PHRASINGS]
    return tuple(phrasing for group in groups for phrasing in group[split])


def questions(kind: Kind, split: Split, count: int, seed: int = 0) -> list[str]:
    """Return `count` distinct questions, balanced over their sources, in an order that depends only on the seed.

    Raises:
        ValueError: The split has fewer questions.
    """
    shuffle = random.Random(f"{kind} {split} {seed}").shuffle
    pools = _pools(kind, split)
    if count > sum(map(len, pools)):
        raise ValueError(
            f"{count} {kind} questions requested, but the {split} split has {sum(map(len, pools))}"
        )
    chosen: list[str] = []
    for index, pool in enumerate(pools):
        shuffle(pool)
        # Smallest pools first, so that larger ones make up for what they lack.
        chosen += pool[: (count - len(chosen)) // (len(pools) - index)]
    shuffle(chosen)
    return chosen


def _pools(kind: Kind, split: Split) -> list[list[str]]:
    """Return all questions of one kind and split, grouped by source, smallest first."""
    about, doing = SUBJECT_PHRASINGS[split], ACTIVITY_PHRASINGS[split]
    if kind == "food":
        dishes, ingredients = _split_items(DISHES, split), _split_items(INGREDIENTS, split)
        pools = [
            list(_split_items(FOOD_SENTENCES, split)),
            _fill_phrasings(DISH_PHRASINGS[split], dishes),
            _fill_phrasings(INGREDIENT_PHRASINGS[split], ingredients),
            _fill_phrasings(about, (*dishes, *ingredients)),
            _fill_phrasings(doing, [f"make {dish}" for dish in dishes]),
        ]
    else:
        pools = [
            list(_split_items(OTHER_SENTENCES, split)),
            _fill_phrasings(about, _split_items(TOPICS, split)),
            _fill_phrasings(doing, _split_items(ACTIVITIES, split)),
        ]
    return sorted(pools, key=len)


def _split_items(items: tuple[str, ...], split: Split) -> tuple[str, ...]:
    return tuple(
        item for index, item in enumerate(items) if (index % _HELD_OUT_EVERY == 0) == (split == "held_out")
    )


def _fill_phrasings(phrasings: Iterable[str], subjects: Iterable[str]) -> list[str]:
    return [phrasing.format(subject) for phrasing, subject in product(phrasings, subjects)]
