"""A paper as PubMed Central and one as PubMed write them, of our own making."""

JATS_ARTICLE = """<article article-type="research-article" xml:lang="en"
 xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML">
<?properties open_access?>
<front><journal-meta><journal-title-group><journal-title>Journal of Small Tests</journal-title>
</journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmid">11111111</article-id>
<article-id pub-id-type="pmc">2222222</article-id>
<article-id pub-id-type="doi">10.1000/jst.1</article-id>
<title-group><article-title>The role of <italic>BRCA1</italic> in <italic>Mus
 musculus</italic><xref ref-type="fn" rid="f1">*</xref></article-title></title-group>
<related-article related-article-type="companion" ext-link-type="doi" xlink:href="10.9/other"/>
<pub-date pub-type="collection"><year>2021</year></pub-date>
<pub-date pub-type="epub"><day>3</day><month>4</month><year>2021</year></pub-date>
<permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>Open.
</license-p></license></permissions>
<abstract abstract-type="graphical"><p>A picture.</p></abstract>
<abstract><title>Abstract</title><sec><title>Background</title><p>We saw p.Arg97Gln.</p></sec>
<sec><title>Results:</title><p>It was <italic>TP53</italic> &lt; 5 &#x003b1;.</p></sec></abstract>
<abstract abstract-type="summary"><title>Author Summary</title><p>In plain words.</p></abstract>
<kwd-group><kwd><italic>BRCA1</italic></kwd><kwd>mouse</kwd></kwd-group>
</article-meta></front>
<body><p>Before any heading.</p><sec><title>Introduction</title>
<p>As known [<xref ref-type="bibr" rid="r1">1</xref>,<xref ref-type="bibr" rid="r2">2</xref>–<xref
 ref-type="bibr" rid="r4">4</xref>], <italic>EGFR</italic> matters
<sup><xref ref-type="bibr" rid="r1">5</xref>,<xref ref-type="bibr" rid="r2">6</xref></sup>. Shown by
<xref ref-type="bibr" rid="r1">Miller et al. (2001)</xref> and others (<xref ref-type="bibr"
 rid="r5">Lee, 2002</xref>; see also <xref ref-type="bibr" rid="r6">Kim, 2003</xref>)
 for 10<sup>5</sup>
 cells at T<sub>4</sub> (see <xref ref-type="fig" rid="g1">Figure 1</xref>).</p></sec>
<sec sec-type="methods"><title>Methods</title><p>Mice.</p><sec><title>Sequencing of
 <italic>KRAS</italic></title><p>We ran it: <inline-formula><mml:math><mml:msup><mml:mi>x</mml:mi>
<mml:mn>2</mml:mn></mml:msup></mml:math></inline-formula> times.</p>
<disp-formula><tex-math>\\frac{a}{b}</tex-math></disp-formula>
<list><list-item><p>First item.</p></list-item><list-item><p>Second item.</p></list-item></list>
<fig id="g1"><label>Figure 1</label><caption><title>Growth.</title><p>Of <italic>MYC</italic> cells.
</p></caption><graphic/></fig>
<table-wrap><label>Table 1.</label><caption><p>Primers used.</p></caption><table><tr>
<td>AAC cell</td>
</tr></table><table-wrap-foot><fn><p>Foot.</p></fn></table-wrap-foot></table-wrap></sec></sec>
<sec><title>Empty</title></sec></body>
<back><ack><p>We thank Bob.</p></ack><app-group><app><title>Appendix A</title><p>More detail.</p>
</app></app-group><ref-list><ref><element-citation><article-title>A cited title</article-title>
<pub-id pub-id-type="pmid">99999999</pub-id></element-citation></ref></ref-list></back>
<sub-article article-type="reply"><front-stub><article-id pub-id-type="doi">10.9/reply</article-id>
</front-stub><body><p>A reply.</p></body></sub-article></article>"""

PUBMED_RECORD = """<PubmedArticle><MedlineCitation><PMID Version="1">12345678</PMID>
<Article PubModel="Print"><Journal><ISSN>0000-0000</ISSN><JournalIssue><PubDate><Year>2018</Year>
<Month>May</Month><Day>17</Day></PubDate></JournalIssue><Title>The journal of tests</Title>
</Journal>
<ArticleTitle>Loss of <i>PTEN</i> and IL-2<sup>+</sup> cells.</ArticleTitle>
<ELocationID EIdType="pii">S1</ELocationID>
<ELocationID EIdType="doi" ValidYN="N">10.0/bad</ELocationID>
<ELocationID EIdType="doi" ValidYN="Y">10.1000/Own.1</ELocationID>
<Abstract><AbstractText Label="BACKGROUND" NlmCategory="BACKGROUND">Why <i>ERBB2</i>.</AbstractText>
<AbstractText Label="RESULTS">c.35delG was seen.</AbstractText><AbstractText>Free.</AbstractText>
<CopyrightInformation>Copyright.</CopyrightInformation></Abstract>
<Language>eng</Language><PublicationTypeList>
<PublicationType UI="D1">Journal Article</PublicationType>
<PublicationType UI="D2">Review</PublicationType></PublicationTypeList></Article>
<CommentsCorrectionsList><CommentsCorrections RefType="CommentIn"><PMID>777</PMID>
</CommentsCorrections></CommentsCorrectionsList>
<KeywordList><Keyword MajorTopicYN="N">PTEN</Keyword></KeywordList></MedlineCitation>
<PubmedData><ReferenceList><Reference><ArticleIdList><ArticleId IdType="pubmed">888</ArticleId>
<ArticleId IdType="doi">10.9/cited</ArticleId></ArticleIdList></Reference></ReferenceList>
<ArticleIdList><ArticleId IdType="pubmed">12345678</ArticleId>
<ArticleId IdType="pmc">PMC55</ArticleId>
<ArticleId IdType="doi">10.1000/own.1</ArticleId></ArticleIdList></PubmedData></PubmedArticle>"""
