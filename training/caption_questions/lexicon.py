"""The words that the tagger knows, written by hand for captions: about as many as cover 95 % of the words of Flickr8k.

A word may be in several lists (a walk, they walk); training/caption_questions/tagger.py decides by its neighbours.
A word in none is unknown, and nothing is asked about a clause that holds it.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLOURS = _words(
    """black white red blue green yellow brown orange pink purple grey gray tan gold silver beige turquoise maroon"""
)
NUMBERS = {w: n for n, w in enumerate(_words("two three four five six seven eight nine ten"), 2)}

MEN = _words("man guy gentleman")
WOMEN = _words("woman lady")
BOYS = _words("boy")
GIRLS = _words("girl")
CHILDREN = _words("child kid toddler")
BABIES = _words("baby infant")
ROLES = _words(
    """person adult someone somebody individual male female teenager teen player athlete skateboarder skater
    snowboarder skier surfer cyclist biker bicyclist rider climber runner swimmer wrestler hiker motorcyclist
    kayaker performer dancer musician singer worker fisherman cowboy policeman officer referee goalie batter
    pitcher catcher diver boxer student teacher friend boarder wakeboarder racer jogger bride groom mother father
    mom dad parent brother sister daughter son owner photographer pedestrian spectator actor clown soldier
    firefighter chef cook waiter vendor passenger driver jockey cheerleader skiier gymnast artist couple family
    crowd audience team group band tourist shopper guitarist drummer opponent teammate coach trainer member
    stranger spiderman santa fan onlooker brunette blonde redhead lifeguard paddler rower sailor acrobat juggler
    pirate bystander sibling twin customer footballer rollerblader bridesmaid"""
)
OTHER_PERSONS = _words(
    """couple family crowd group mother father mom dad parent brother sister daughter son bride groom audience team
    spectator onlooker friend female male teacher opponent owner band"""
)
"""Those of ROLES that speak of a second person."""
DOGS = _words(
    """dog puppy terrier poodle greyhound retriever collie beagle husky labrador lab bulldog dalmatian doberman
    dachshund chihuahua spaniel pitbull shepherd corgi pug hound mutt boxer"""
)
CATS = _words("cat kitten kitty")
ANIMALS = (
    *DOGS,
    *CATS,
    *_words(
        """animal horse pony cow bull calf sheep lamb goat pig elephant giraffe zebra bear lion tiger monkey bird pigeon
    duck goose swan seagull gull eagle owl parrot chicken rooster fish shark dolphin whale turtle frog snake
    rabbit bunny squirrel deer camel donkey kangaroo fox wolf butterfly insect bee crab pelican flamingo penguin
    ostrich"""
    ),
)
CLOTHES = _words(
    """shirt t-shirt jacket coat sweater sweatshirt hoodie vest dress skirt suit tuxedo uniform jersey costume outfit
    robe gown hat cap helmet hood scarf bandanna bandana headband tie apron swimsuit bikini wetsuit leotard kimono
    glove boot shoe sneaker sandal sock mask backpack blouse tutu cape beanie turban blazer cardigan jumpsuit
    snowsuit kilt top headscarf wig parka poncho harness collar bag purse necklace belt"""
)
CLOTHES_PLURAL = _words(
    """pants jeans shorts trunks overalls glasses sunglasses goggles pajamas tights leggings clothes headphones
    trousers slacks capris swimtrunks"""
)
VEHICLES = _words(
    """car truck bus van taxi train bike bicycle motorcycle motorbike scooter tricycle unicycle boat canoe kayak raft
    ship sailboat rowboat motorboat airplane plane helicopter jet tractor jeep wagon cart sled sleigh skateboard
    snowboard surfboard ski skate rollerblade wheelchair stroller wakeboard snowmobile jetski subway carriage
    trolley ambulance suv atv buggy limousine bulldozer"""
)
THINGS = _words(
    """ball frisbee stick toy bone rope leash bat racket racquet club hoop kite balloon bubble guitar violin drum
    piano flute trumpet saxophone accordion microphone camera phone cellphone telephone laptop computer keyboard
    mouse television tv book newspaper magazine paper map letter card picture photo painting poster sign flag
    banner umbrella basket bucket box bottle cup mug glass bowl plate tray fork knife spoon pan pot wine beer soda
    water coffee cake pizza sandwich apple banana orange fruit candy popsicle lollipop icecream corn bread cookie
    hotdog hamburger food meal vegetable carrot broccoli donut cigarette pipe candle lamp light clock watch mirror
    bench chair stool couch sofa bed table desk counter shelf cabinet drawer oven stove refrigerator fridge sink
    toilet bathtub tub shower crib hammock pillow blanket towel rug carpet curtain sheet quilt tent tarp net fence
    wall gate rail railing pole post ladder swing slide seesaw trampoline hurdle obstacle log branch tree bush
    flower plant leaf rock stone boulder brick pebble statue sculpture monument fountain sprinkler hose hydrant
    bell wheel tire rod fishing-rod oar paddle parachute float innertube shovel rake broom hammer saw drill sword
    gun rifle whip rattle teddy doll puppet pinata bouquet wagon ring rose vase jar can bin barrel cone tube mat
    pad cushion puck glove ribbon crown feather stroller suitcase luggage ice-cream skateboard snowman sandcastle
    snowball football basketball baseball volleyball trophy medal torch flame firework scissors toothbrush
    hairdryer pacifier remote controller beachball board pencil pen brush chalk tool stump trunk vehicle crane
    dish wheelbarrow cage tripod screen bead pumpkin"""
)
BODY = _words(
    """hand arm leg foot head face mouth nose eye ear hair tongue tooth tail paw back shoulder finger knee lap neck
    chest stomach belly beard mustache lip chin cheek body wing fur waist ponytail mohawk skin hip hoof beak toe"""
)
PLACES = _words(
    """beach park street road field yard backyard lawn grass snow water ocean sea lake river creek stream pool pond
    forest woods desert mountain hill sidewalk city kitchen bathroom bedroom restaurant stage playground racetrack
    court ice sand dirt mud path trail bridge stadium store market garden gym rink highway alley farm airport
    library church office bar cafe museum parade carnival zoo puddle driveway parking-lot swimming-pool shore dock
    pier meadow pavement jungle skatepark plaza harbor marina classroom hallway garage barn pasture boardwalk
    rapids living-room waterfall canyon courtyard dune gravel hillside mountainside cave pathway woodland patio
    walkway snowbank campfire racecourse velodrome subway-station train-station wave ramp"""
)
OTHER_NOUNS = _words(
    """air area scene view edge side top bottom front background foreground middle distance line row pile group bunch
    lot number pair piece set game match race trick jump run walk ride dance stunt wave sun sunset sunrise sky
    cloud day night winter summer dark shade shadow surface floor ground land hole track step stair staircase roof
    porch balcony deck door window room house building wall tower skyscraper apartment home shop mall school town
    village neighbourhood neighborhood corner curb crosswalk crossing intersection traffic lane platform station
    terrain hiking course slope cliff ledge ridge peak mountaintop valley bank island coast shoreline waterside
    surf tide rain wind fog smoke steam fire spray splash water-spray bubble-bath mist pattern design stripe color
    colour name word letter time way direction end part place spot position pose look expression smile kiss hug
    fight competition contest event festival concert show performance ceremony wedding party birthday fetch catch
    celebration protest practice training lesson soccer tennis hockey golf rugby cricket lacrosse polo karate
    music song instrument equipment gear stuff item object thing something clothing attire clothes jewelry makeup
    plastic metal wood concrete cement leather rubber cloth fabric material cardboard brick bmx dirtbike wheelie
    handstand backflip flip somersault cartwheel tackle pass shot kick punch pitch hit throw goal score base
    home-plate obstacle-course tug-of-war hopscotch merry-go-round carousel rollercoaster ferris-wheel
    amusement-park half-pipe structure construction site sculpture art work job class break lunch dinner breakfast
    drink snack seat stand bleacher space hall cage fireplace crane dish seatbelt machine screen handlebar pathway
    video life police softball range wire grocery arena center gallery tunnel lobby stairway escalator elevator
    bus-stop stop sport exhibit display booth stall graffiti mural tattoo logo christmas halloween american
    america hillside river-bank riverbank lakeside seaside countryside landscape scenery skyline wilderness weed
    hay straw leafy moss vine pine palm"""
)
IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "gentleman": "gentlemen", "child": "children", "person": "people",
    "policeman": "policemen", "fisherman": "fishermen", "foot": "feet", "tooth": "teeth", "goose": "geese",
    "mouse": "mice", "leaf": "leaves", "knife": "knives", "shelf": "shelves", "calf": "calves", "wolf": "wolves",
    "sheep": "sheep", "deer": "deer", "fish": "fish", "snowman": "snowmen", "scarf": "scarves", "hoof": "hooves",
    "spiderman": "spidermen",
}  # fmt: skip
COLLECTIVES = _words("group crowd couple bunch team pair line row pack flock herd family band gang")
"""Heads of "a group of people"."""
MASS = _words("grass snow water sand dirt mud ice pavement gravel concrete ocean sea beach")
"""Bare nouns that take "the" in a question: "on grass" becomes "on the grass"."""
VAGUE = _words("object thing item stuff gear equipment something")
"""Nothing is asked about clauses with them."""

VERBS = _words(
    """run walk jump play stand sit ride hold climb swim catch throw jog hop skip leap dive dance sing eat drink
    sleep lie lay rest look stare gaze smile laugh wave point pose perform kick hit swing slide ski skate
    snowboard skateboard surf wakeboard kayak paddle row sail fish hike bike cycle race chase follow fetch
    retrieve carry drag pull push lift bite chew lick sniff bark dig roll splash wade float fly land fall trip
    crouch kneel squat lean bend stretch reach grab touch hug kiss fight wrestle tackle box spar punch compete
    watch read write draw paint talk speak chat listen cook bake cut chop pour fill wash clean brush sweep shovel
    rake build fix repair work shop buy sell pay feed pet groom wear make take give put place set pick drop toss
    bounce dribble shoot aim bat pitch serve return juggle balance spin flip turn twist grind descend ascend
    approach enter leave cross pass move travel drive park wait gather march parade celebrate cheer clap applaud
    blow spray squirt drool pant shake wag stick show hang suspend tie attach photograph film record type text
    call answer study relax lounge nap sunbathe camp grill toast crawl trot gallop bound prance sprint tumble
    glide soar hover hurdle maneuver navigate tube sled drift speed crash overlook face enjoy teach guide lead
    examine inspect search hunt hide peek peer gesture yell scream shout cry frown grin wink stroll wander roam
    pedal raft rollerblade rollerskate unicycle twirl whirl scale rappel tug wrap dress decorate light smoke sip
    lap swallow taste blend slice wipe dry comb shave straddle cradle rock rub scratch pat stroke squeeze snuggle
    cuddle embrace assist rescue herd milk saddle rope do surround cover raise line seat block support practice
    waterski patrol"""
)
STATIVE = _words(
    """have see seem appear contain like know be consist belong need want think include feature go get come let keep
    say use try attempt begin start stop prepare help"""
)
"""Not asked about: they do not go with "is ...ing"."""
TRANSITIVE = frozenset(
    _words(
        """hold carry wear catch throw chase pull push drag lift grab touch hug fetch retrieve kick hit bite put set use
    cut fix build buy sell feed groom make take give cross approach leave enter do photograph attach tie cover
    surround"""
    )
)
"""Without an object they make no sense."""
IRREGULAR_PAST = {
    "run": "ran run", "stand": "stood", "sit": "sat", "ride": "rode ridden", "hold": "held", "swim": "swam swum",
    "catch": "caught", "throw": "threw thrown", "dive": "dove dived", "sing": "sang sung", "eat": "ate eaten",
    "drink": "drank drunk", "sleep": "slept", "lie": "lay lain", "lay": "laid", "swing": "swung", "slide": "slid",
    "fight": "fought", "bite": "bit bitten", "dig": "dug", "fly": "flew flown", "fall": "fell fallen",
    "kneel": "knelt", "bend": "bent", "hit": "hit", "read": "read", "write": "wrote written", "draw": "drew drawn",
    "speak": "spoke spoken", "cut": "cut", "build": "built", "buy": "bought", "sell": "sold", "feed": "fed",
    "wear": "wore worn", "make": "made", "take": "took taken", "give": "gave given", "put": "put", "set": "set",
    "shoot": "shot", "spin": "spun", "leave": "left", "drive": "drove driven", "blow": "blew blown",
    "shake": "shook shaken", "stick": "stuck", "show": "showed shown", "hang": "hung", "begin": "began begun",
    "teach": "taught", "lead": "led", "hide": "hid hidden", "leap": "leapt leaped", "sweep": "swept", "have": "had",
    "see": "saw seen", "light": "lit",
}  # fmt: skip
DOUBLED = frozenset(
    _words(
        """run swim sit jog hit put cut dig bat chat clap drag drop flip grab hug nap pet pat spin stop skip hop trip
    trot shop set chop rub wag tug wrap squat spar get step sip lap snuggl hum rap"""
    )
)

ADJECTIVES = _words(
    """young old older little small large big huge tiny tall short long elderly female male asian african american
    indian japanese chinese blond blonde brunette curly bald bearded shirtless barefoot topless furry fluffy hairy
    shaggy spotted striped plaid checkered floral colorful colourful bright dark light pale dirty muddy dusty dry
    wet snowy icy sandy grassy rocky wooded wooden metal plastic stone brick concrete leafy steep high low deep
    shallow narrow wide open empty crowded busy public outdoor indoor outside urban rural sunny cloudy foggy calm
    rough wild tame happy sad funny silly serious uniformed tattooed elaborate straight tight close tropical navy
    flowery sheer visible asleep seated tired excited cute beautiful pretty nice fancy formal casual traditional
    oriental new broken fallen frozen muzzled bare naked nude heavy thin fat golden colored closed smaller larger
    younger hot skinny slim muscular same different several many few other own single lone alone double multiple
    various full half upper lower left right top bottom back front rear middle next first second third last
    professional athletic medium sized medium-sized large-sized small-sized inflatable stuffed decorative
    patterned multicolored multi-colored tri-colored cold warm fresh raw round square flat sharp smooth soft hard
    rubber rainbow camouflage denim leather military olympic redheaded middle-aged teenage adult lush overgrown
    vacant paved cobblestone clear blank giant miniature mini fenced snow-covered tree-lined grass-covered hooded
    matching similar identical electric acoustic modern vintage antique nearby distant lit mostly very abandoned
    bmx extreme tennis hockey pre-teen unfinished shiny reflective blurry dimly heavily well"""
)
ADVERBS = _words(
    """very together away outside inside outdoors indoors around back ahead alone happily quickly slowly
    upside backwards backward forward sideways overhead nearby underwater airborne playfully carefully just still
    also almost apart too mostly really slightly barely midair upstairs downstairs downhill uphill home
    aside"""
)
PREPOSITIONS = _words(
    """in on at with of by near over through into across behind beside under underneath beneath below above along
    against between among around from toward towards onto down up off past inside outside during for without after
    before about upon within amongst atop amid alongside like next-to in-front-of on-top-of out-of away-from
    onto-of close-to in-the-middle-of along-side-of on-the-edge-of on-the-side-of at-the-edge-of at-the-top-of
    in-the-background-of"""
)
PARTICLES = _words("up down out off over around along")
"""Prepositions that end a verb where no noun phrase follows."""
WORD_GROUPS = (
    "next to", "in front of", "on top of", "out of", "away from", "close to", "in the middle of", "on the edge of",
    "on the side of", "at the edge of", "at the top of", "each other", "one another", "ice cream", "hot dog",
    "teddy bear", "parking lot", "swimming pool", "living room", "train station", "subway station", "tug of war",
    "roller coaster", "ferris wheel", "amusement park", "half pipe", "merry go round", "obstacle course",
    "fishing rod", "a lot of", "lots of", "body of water", "bodies of water", "no one", "at least", "as if",
    "as well as", "such as", "because of", "in between", "skate park", "fire hydrant", "high five", "pine cone",
    "piggy back", "piggyback ride",
)  # fmt: skip
"""Read as one word, its parts joined by hyphens."""
EXTRA_NOUNS = (
    "ice-cream",
    "hot-dog",
    "teddy-bear",
    "fire-hydrant",
    "skate-park",
    "body-of-water",
    "roller-coaster",
    "half-pipe",
    "pine-cone",
    "fishing-rod",
)

SPELLINGS = {
    "grey": "gray", "bicycle": "bike", "sofa": "couch", "racquet": "racket", "bandana": "bandanna",
    "cellphone": "phone", "telephone": "phone", "motorbike": "motorcycle", "television": "tv", "plane": "airplane",
    "t-shirt": "shirt", "tee-shirt": "shirt", "kid": "child", "guy": "man", "gentleman": "man", "lady": "woman",
    "infant": "baby", "bunny": "rabbit", "puppy": "dog", "sea": "ocean", "skate-park": "skatepark",
    "swimming-pool": "pool",
}  # fmt: skip
"""Answers that mean the same are one answer."""
