"""Six short stories, written for this study, that the simulated subjects hear.

Each story is one string, one sentence a line. Four sentences stand in two stories on purpose: real corpora repeat
sentences too, and a split by sentence text must cope with it.
"""

STORIES: dict[str, str] = {
    "lighthouse": """\
The lighthouse at the end of the bay had been dark for eleven years when Marta bought it.
Nobody in the village understood why a clockmaker would want a tower full of rust and gulls.
She paid with the money her aunt had left her, and she never told anyone the price.
On the first morning she carried a broom, a kettle and a small radio up the spiral stairs.
The steps were so worn that each of them held a shallow pool of rain.
At the top she found the great lamp under a sheet, its lenses cloudy like old eyes.
She wiped one pane with her sleeve and saw the whole coast bend inside the glass.
Below her, fishing boats were crawling home through the yellow fog.
It was then that she heard the ticking.
It came from inside the wall, slow and uneven, as if something had forgotten how to count.
Marta knew every kind of clock, but she had never met one that limped.
She pressed her ear against the cold stones and followed the sound downwards.
Behind a loose brick, wrapped in a sailor's scarf, lay a brass box with three hands on its face.
One hand showed the hour and another pointed at the tide.
The third hand trembled, turned twice, and stopped at a word she could not read.
She asked the harbour master, who laughed and then suddenly became very quiet.
My grandfather kept the light, he said, and he used to talk about a machine that could smell storms.
He told us that it went wrong on the night of the great flood.
Marta cleaned every wheel with oil and a feather, and she worked until the kettle boiled dry.
Near midnight the limp disappeared, and the box began to hum like a sleeping cat.
The third hand moved again and settled firmly on a picture of a black cloud.
There was no wind, and the stars were bright above the sea.
Still, she pulled the sheet from the lamp and filled the tank with oil.
Two hours later the storm arrived without any warning at all.
Seven boats were out that night, and seven boats came home along the beam.
In the morning the villagers climbed the stairs with bread, cheese and a bottle of plum brandy.
Nobody asked her again why she had wanted the tower.""",
    "orchard": """\
My grandmother owned an orchard where no two trees carried the same kind of apple.
Some were as red as paint, some were green and sour, and one had skin like brown paper.
Every autumn our whole family gathered there for a week of ladders, baskets and arguments.
My uncle Peter always claimed that the best fruit grew on the highest branches.
My mother said that this was only an excuse for showing off.
I was nine years old, and my job was to guard the wheelbarrow from the goat.
The goat was called Bishop, and he could open gates, buckets and lunch boxes.
That year he had also learned to untie shoes.
On the third day a stranger walked out of the woods with a notebook under his arm.
He wore a long green coat, and there were leaves in his beard.
He said that he had been looking for a lost apple for almost twenty years.
It was small and striped, he explained, and it tasted of honey and pepper.
The last known tree had been cut down before the war to make room for a railway.
Grandmother listened politely while she peeled potatoes into a bowl.
Then she asked him whether he could climb.
There was no wind, and the stars were bright above the sea.
That is how my uncle remembered the evening, although the coast was two hundred miles away.
What I remember is the lantern moving between the trunks, and Bishop eating the stranger's notes.
They stopped at a crooked tree beside the well, which nobody had ever bothered to pick.
Its apples were tiny, and my cousins used them only for throwing.
The man took one bite and sat down in the wet grass.
For a long time he said nothing, and his shoulders shook.
Grandmother thought that he was ill and sent me to fetch some water.
When I came back he was laughing, and so was she, with juice running down her chin.
He stayed until the end of the harvest and cut forty thin twigs from the crooked tree.
Each of them was wrapped in moss and posted to a different country.
In spring the letters began to arrive, with strange stamps and photographs of young leaves.
Bishop ate most of the letters, but we kept the stamps.""",
    "night_train": """\
The night train to the south leaves from platform nine, behind the empty flower shop.
I had taken it many times, always in winter, and always in the same narrow compartment.
This time an old woman was sitting by the window with a cage on her knees.
The cage was covered with a towel, and something inside it was whispering.
Good evening, I said, and the whispering stopped at once.
She smiled and told me that her parrot was shy with educated people.
I answered that I was only a plumber, which seemed to please them both.
Soon the city slid away, and the fields outside turned blue in the snow.
She offered me half of a sandwich with mustard and pickled onions.
We talked about pipes, and about her late husband, who had been a judge in a small town.
The bird, she said, had lived in the court room for fifteen years.
It had listened to thieves, liars and lawyers, and it had forgotten nothing.
Nobody in the village understood why a clockmaker would want a tower full of rust and gulls.
The parrot said this sentence very clearly from under the towel.
What does it mean, I asked, but the old woman only shrugged.
It repeats things that people said when they believed that they were alone.
At the border two officers came in and shone their lamps into our faces.
They looked at my tools, at her hat and at the shape beneath the towel.
The younger one reached out to lift the cloth, and the train went into a tunnel.
In the darkness a deep voice said, I put the money under the third floor board.
When the light returned, the younger officer was as white as paper.
He gave back our passports without looking at them and left the compartment in a hurry.
The older officer stayed for a moment, and slowly took out his notebook.
How long is your bird travelling with us, madam, he asked.
As far as the sea, she replied, and perhaps a little further.
I slept badly that night, and I dreamed of doors that would not close.
In the morning she was gone, but a green feather was lying on my bag of tools.
Since then I have been very careful about what I say to an empty room.""",
    "bread": """\
Before the sun came up, Tomas had already burned two hundred rolls.
He stood in the smoke with a wet cloth over his mouth and wondered what his father would say.
The bakery had been in the family since the bridge was built, and the oven was older still.
It was a huge brick cave with an iron door, and it had moods like a person.
On damp days it sulked, on windy days it roared, and on Sundays it refused to get warm.
His father could judge the heat by holding his bare arm inside for three breaths.
Tomas preferred a thermometer, which the oven melted in its second week.
Now his father was in hospital with a broken leg, and there were ninety customers to feed.
He swept the black rolls into a sack and started again from the beginning.
Flour, water, salt, and a spoon of the sour grey dough that lived in the cellar.
The dough was even older than the oven, and it had a name that nobody dared to say.
He fed it with rye and apologised for the smoke.
It was then that she heard the ticking, said a voice from the radio on the shelf.
Tomas turned the radio off, because he could not bake and follow a story at the same time.
At six o'clock his neighbour Irene knocked on the window with her umbrella.
She was a retired engineer, and she had smelled the disaster from across the street.
Show me the chimney, she ordered, and rolled up the sleeves of her good coat.
Together they pulled out a nest, three tennis balls and a very surprised owl.
The owl sat down on the flour sacks and stared at them with great disgust.
When they lit the fire again, the smoke rose straight up like a thread.
The oven gave a long sigh, and the whole room began to glow.
Irene timed the first batch with her watch while Tomas held his arm inside and counted.
One breath, two breaths, three breaths, and the hair on his wrist did not curl.
The rolls came out round and golden, with a crust that sang as it cooled.
By eight there was a line of people all the way down to the bridge.
He took the last roll to the hospital in a paper bag under his jacket.
His father broke it open, smelled it, and looked out of the window for a while.
You left it in a little too long, he said at last, but the oven likes you.""",
    "map": """\
In the winter of the long frost, the library lent out a map and never got it back.
The borrower was a girl called Nina, who had only wanted to know where the river began.
She spread the paper on the kitchen table and held down its corners with cups.
The river was drawn in silver ink, and it ran from the mountains to the edge of the page.
When she touched it with her finger, the ink was wet.
A drop rolled off the table and fell on the cat, who left the house offended.
Nina looked closer and saw tiny waves, a bridge, and a boat no bigger than a grain of rice.
Somebody in the boat was waving both arms at her.
She found a magnifying glass in her brother's desk and bent down over the water.
It was a man with a long beard, and he was holding up a sign with four words.
Please turn the page, the sign said, in very careful letters.
She turned the map over, but the back was empty except for a brown stain.
The stain had the shape of a mountain, and there was a faint smell of coffee.
All at once she understood that the river could not reach the sea.
It stopped at the edge of the page, where the traveller had been waiting for years.
Nina took her best blue pen and a sheet of drawing paper.
She glued it to the map with flour and water, because the shops were already closed.
Then, with her tongue between her teeth, she drew the rest of the valley.
She gave it reeds and herons, two villages, a mill and a ferry with a red roof.
For a long time he said nothing, and his shoulders shook.
Then the little man sat down, took hold of his oars, and began to row.
He passed the mill before supper and reached the second village when she went to bed.
In the morning there was a wide blue bay at the bottom of the sheet that she had not drawn.
A ship was lying at anchor there, with white sails and a flag she did not know.
The boat was empty, and the sign was floating beside it.
She needed the strongest lens in the house to read what he had written this time.
Thank you, it said, and please do not return this map before the spring.
Nina put it carefully under her mattress, where it whispered like a shell.
The library sent her three letters, and later a rather large bill.""",
    "choir": """\
Our town had a choir of forty people, and not one of them could sing the low notes.
The basses had left one after another, for the army, for love, or for better weather.
Mister Olsen, who conducted us, put an advertisement in the window of the chemist.
Wanted, it said, a voice from the bottom of a well.
For three weeks nobody came except a boy who wished to sell us raffle tickets.
Then, on a foggy Thursday, the floor of the hall began to tremble.
We thought of a lorry, and then of thunder, and finally we all looked towards the door.
The man who entered had to bend his neck to fit under the frame.
He repaired elevators for a living, he told us, and he liked to hum in the shafts.
When he sang his first note, the dust fell from the curtains.
The second note opened a window, and the third one woke the baby of the caretaker.
Mister Olsen wept openly and broke his pencil in two.
From that evening we practised every day, because the festival was only a month away.
The altos complained that they could feel their teeth move.
A crack appeared in the ceiling, and someone proposed that we should rehearse in the quarry.
So we stood among the grey rocks in our coats, and our breath rose up like steam.
The echo came back a little later each time, and it always knew one verse more than we did.
On the day of the festival the judges sat behind a long table with glasses of water.
Eleven choirs had sung before us, and the judges were fighting against sleep.
We began so softly that they leaned forward and held their hands behind their ears.
Then the elevator man breathed in, and the lamps became a shade darker.
The water in the glasses drew perfect circles, and the oldest judge lost his wig.
I have never been so happy in my life as I was in the silence that followed.
We did not win, because our song had been four minutes too long.
The prize went to some children with bells, and they truly deserved it.
But the building has a new crack above the stage, in the shape of a musical key.
Each of them was wrapped in moss and posted to a different country.
That is what our poster says about our records, and I must admit that nobody knows why.""",
}
