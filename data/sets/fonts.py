"""The fonts of the embedded glyphs: their packages on npm, named by the Fontsource project."""

from data.sets.packages import Package

SCOPE = "@fontsource/"
# the names of the packages without their scope, by version
VERSIONS = {
    "5.0.12": """
        pathway-extreme
    """,
    "5.1.0": """
        aubrey
    """,
    "5.2.5": """
        monaspace-krypton
    """,
    "5.2.7": """
        adamina calistoga days-one jockey-one mouse-memoirs
    """,
    "5.2.8": """
        amaranth changa-one freehand happy-monkey iceberg iceland k2d montecarlo nova-square
    """,
    "5.3.0": """
        abel abhaya-libre aboreto abril-fatface acme actor afacad alata albert-sans aldrich
        alegreya aleo alex-brush alexandria alfa-slab-one alice allan allura almarai
        alumni-sans amatic-sc annie-use-your-telescope anonymous-pro anton antonio anybody
        apfel-grotezk architects-daughter archivo-black archivo-narrow aref-ruqaa arsenal arvo
        atkinson-hyperlegible audiowide azeret-mono b612 b612-mono bad-script bai-jamjuree
        baloo-2 balsamiq-sans bangers barlow bebas-neue belleza berkshire-swash besley
        birthstone bitter black-ops-one bodoni-moda bowlby-one-sc bree-serif
        bricolage-grotesque bubblegum-sans bungee bungee-shade cabin cabin-sketch cal-sans
        caladea caprasimo cardo carter-one caveat caveat-brush cedarville-cursive changa chewy
        chilanka cinzel cinzel-decorative climate-crisis coiny comfortaa comic-neue
        comic-relief cookie cooper-hewitt corinthia cormorant-garamond courgette courier-prime
        cousine covered-by-your-grace creepster crimson-pro damion dancing-script
        darker-grotesque dela-gothic-one delicious-handrawn delius didact-gothic domine doto
        encode-sans ephesis esteban ewert fahkwang familjen-grotesk farsan figtree finger-paint
        fira-code fraunces fredericka-the-great fredoka funnel-display gabarito gaegu
        germania-one gfs-didot gloock gloria-hallelujah gochi-hand goldman graduate grand-hotel
        grandstander great-vibes gugi handlee hedvig-letters-serif hepta-slab
        herr-von-muellerhoff homemade-apple indie-flower inknut-antiqua instrument-serif
        italiana italianno itim jersey-10 jetbrains-mono josefin-sans jost jura kalam kanit
        kaushan-script knewave kode-mono krona-one kumbh-sans lalezar league-spartan lekton
        lemonada lexend lexend-zetta libre-caslon-condensed licorice lilita-one
        liu-jian-mao-cao lobster lobster-two londrina-solid long-cang luckiest-guy mansalva
        marcellus marck-script medievalsharp merriweather-sans michroma mochiy-pop-one modak
        momo-trust-display monda monofett monoton monsieur-la-doulaise montserrat
        mr-de-haviland ms-madi museomoderno nanum-brush-script nanum-pen-script neucha
        newsreader norwester nosifer old-standard-tt oooh-baby opendyslexic orbitron ovo
        oxanium pacifico parisienne passion-one patrick-hand patua-one paytone-one
        permanent-marker philosopher piazzolla pinyon-script pixelify-sans play playfair
        playpen-sans plus-jakarta-sans poiret-one poor-story press-start-2p pt-sans
        pt-sans-narrow quantico quattrocento quicksand raleway rammetto-one recursive
        red-hat-mono reenie-beanie righteous roboto-slab rochester rock-salt rokkitt rowdies
        rubik rubik-mono-one russo-one sacramento saira-stencil-one sanchez sansita satisfy
        schoolbell science-gothic sen shadows-into-light shantell-sans share-tech short-stack
        shrikhand sigmar-one silkscreen smooch sniglet sofia-sans sora sorts-mill-goudy
        space-grotesk space-mono special-elite special-gothic-expanded-one spicy-rice sriracha
        staatliches stack-sans-notch sue-ellen-francisco suez-one swanky-and-moo-moo syncopate
        syne tangerine tenor-sans the-girl-next-door tiny5 titan-one twinkle-star unbounded
        uncial-antiqua uncut-sans unifrakturmaguntia urbanist vibur victor-mono volkhov vt323
        whisper yanone-kaffeesatz yellowtail yeseva-one yomogi yusei-magic
        zalando-sans-expanded zcool-kuaile zcool-qingke-huangyou zen-dots zen-kurenaido
        zhi-mang-xing zilla-slab
    """,
}
FONTS = tuple(
    Package(SCOPE + name, version)
    for name, version in sorted(
        (name, version) for version, names in VERSIONS.items() for name in names.split()
    )
)
