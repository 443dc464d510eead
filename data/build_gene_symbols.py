r"""Build gene_symbols.tsv.gz from NCBI Entrez Gene, as Debian packages it.

    apt-get download r-bioc-org.hs.eg.db wamerican-huge
    for package in *.deb; do dpkg -x "$package" unpacked; done
    python data/build_gene_symbols.py \
        unpacked/usr/lib/R/site-library/org.Hs.eg.db/extdata/org.Hs.eg.sqlite \
        --word-list unpacked/usr/share/dict/american-english-huge

Which symbols cannot be told from ordinary writing is decided here, once, and by rule: a symbol
is ambiguous when it is in the English word list, when it is one of the laboratory, clinical or
statistical abbreviations below, or when it has one or two characters. An ambiguous symbol stays in
the lexicon, marked, and the reader wants evidence beside it; an ambiguous alias is left out.
"""

import gzip
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

GENE_TYPES = (
    "protein-coding",
    "ncRNA",
    "pseudo",
    "rRNA",
    "scRNA",
    "snRNA",
    "snoRNA",
    "tRNA",
)
COLUMNS = ("symbol", "entrez_id", "gene_type", "ensembl_id", "aliases", "ambiguous")

# Approved symbols, C9orf72 style included. LOC107986619 and clone names such as
# LL22NC03-13G6.2 are placeholders that no paper names.
SYMBOL = re.compile(r"(?!LOC\d)(?:[A-Z][A-Z0-9]*(?:-[A-Z0-9]+){0,3}|C[\dXY]+orf\d+(?:-[A-Z0-9]+)?)")

# Abbreviations of genetics, the laboratory, the clinic and statistics that are also a symbol
# or an alias of some gene. Found by counting the capital tokens of some 3,800 biomedical
# abstracts that the lexicon matched, and reading them.
ABBREVIATION_LIST = """
AAA AAS ABC ACA ACC ACD ACG ACH ACL ACR ACS ACT ADC ADD ADHD ADP ADR AES AFLP AGA AGS AHC AICAR
AIDS AIM AIS AKU ALD ALL ALP ALS ALT AMD AML AMN AMP ANA ANG ANOVA ANS APA APC APD APS ARA ARDS
ARM ART ASA ASD ASM AST ATA ATC ATL ATP ATPASE AUC BAC BAH BAL BAP BBB BCC BCG BCR BCS BLAST BLS
BMD BMI BMT BPH BRL BSA BSS BWS CABG CAD CAH CAM CAMP CAP CAR CASH CAST CBF CBC CBD CCC CCD CDC CDM
CDNA CDR CEA CFA CFP CFS CFU CGH CGMP CGT CHD CHF CHIP CHM CHO CHS CIN CIS CKD CLC CLL CMD CML CMV
CNS CNV COMP COPD COPE CPAP CPD CPE CPG CPM CPO CPP CPR CRC CRF CSA CSB CSC CSF CSS CST CTA CTC
CTCL CTG CTL CTS CTX CVD DAB DAG DAPI DBA DBD DBS DCA DCD DCIS DCM DDD DDP DELTA DES DGS DHEA
DHEAS DHS DIC DIF DLCO DMD DMSO DNA DOX DPD DRD DSB DSC DSD DSE DSI DSS DST DTD DVT EAE EBV ECD
ECG ECL ECM ECP ECT EDMD EDS EDTA EEG EGD EIA ELISA EMA EMG EMS EMSA END ERG ERP ESD ESRD EST ETA
EVA FAB FACS FAD FAP FBS FCM FDA FDG FEV FFPE FHC FHM FISH FITC FLIP FMD FMF FMN FPC FRAP FRDA
FRET FSHD FTD GAC GAM GAP GAS GCA GCS GCT GEF GEM GENE GERD GFP GFR GIST GLM GPA GPI GST GTA GTD
GTG GTP GUANINE GVHD GWAS HAART HAE HAL HAM HAT HBV HCC HCM HCP HCS HCV HDL HEK HELA HGG HHT HIV
HLA HMS HNPCC HPA HPD HPLC HPS HPT HPV HRF HRS HRT HSC HSI HSP HSV HTLV HUS HYPP IBD IBS ICC ICD
ICE ICU IDC IDDM IHC IL IMD IMP INR INS IPF IPP IPW IQR IRB IRES ISH ITP ITR IVF KDA KIT KOS KS
KSS LAD LAK LAL LAM LAP LAT LCA LCR LD LDL LEC LGS LIM LIP LNCAP LOD LOH LPS LQTS LTP LTR LVH MAC
MAF MAP MAPK MARS MAS MAT MCC MCR MCS MDD MDP MDR MDS MEA MED MEFS MEL MEM MEN MET MHC MHP MI MIC
MIM MIO MIP MIRNA MIS MIX MJD MLD MLR MMR MODY MOI MOLT MPD MPP MPS MRD MRI MRNA MRSA MS MSA MSD
MSH MSI MSR MSV MTD MTT MTX NAC NADH NADPH NAFLD NAG NAL NAP NASH NBS NCI NER NES NET NGS NHL NHS
NIH NIR NIS NK NKH NKL NLS NMD NMR NOD NOR NORM NOT NPC NPL NS NSAID NSCLC OA OAS OCD OCT OD OMIM
OPLL ORF OSA OTC PAC PAD PAF PAGE PAH PAI PAM PAO PAP PAR PAS PBC PBL PBMC PBR PBS PBT PCA PCC PCD
PCI PCL PCM PCOS PCP PCR PCT PDA PDB PDE PDS PED PEG PET PFS PGA PGD PGF PGK PGN PHA PHD PHP PIC
PID PIF PILOT PIN PIP PIS PIT PKC PKD PKU PLC PLD PLP PLS PMA PMD PML PMN PMS PND PNH PNS POLYA
PPARS PPI PPK PPROM PPV PRISM PRK PRP PSA PSF PSG PSI PSP PST PTC PTL PTP PTS PTSD PVR PWS QTL
RACE RAGE RAM RAPD RARS RAS RBC RCC RCD RCP RCT RDA RDS REF REH REM RET RFLP RFP RIA RIC RIN RIP
RISC RLS RMSD RNA RNAI RNASE RNR ROC ROI ROM ROS RP RPA RPE RPMI RRNA RSD RSV RT RTA RTP RTS SAA
SAC SAF SAGE SAH SAM SAP SAR SARS SAS SBMA SBP SCA SCC SCD SCF SCID SCL SCLC SCN SCS SD SDF SDS
SEA SEB SED SEM SGA SIDS SIL SIRNA SJS SLE SLN SLS SLT SMA SMR SNP SNRNP SNV SOD SOX SPECT SPF SPG
SPR SRS SSA SSC SSCP STA STAR STAT STD STP STR STS SVM SWI TAA TAC TAF TAG TAL TAR TAT TATA TB TBI
TBS TCA TCC TCD TCR TDT TEC TEF TEM TEN TFS TGA TGC TGT THC THP TIA TIC TIM TLC TLE TMD TMS TNM
TNT TOF TPA TPN TRAMP TRAP TRE TRNA TRP TSA TSC TSD TSP TSS TTC TTP TUNEL TUR UCP UPD UPS USA UTI
UTR UV VCFS VEP VIP VLDL VNTR VWS WAGR WBC WES WGS WHO WND WT XLA XLH YAC ZIP
"""
# Cell lines, strains, viral proteins, cell types, doses and the like; upper case stands for any.
LINES_AND_UNITS_LIST = """
3T3 A-T A549 AD1 AD2 ALPHA-CHAIN AN2 AP-1 AP-2 B-ALL B27 BETA-CHAIN BMP1A BP1 CA1 CA2 CA3 CA4 CD-1
CD1 CFTR1 CO2 COS-1 COS-7 COS1 COS7 CRP1 CV1 CYP450 DAY1 DP1 DP2 DQ2 DQ8 DR3 DR4 DR5 E14 E1A E1B
E2 E6 E7 EBNA1 EBNA2 EBS1 EBS2 EC1 EC2 EC50 EST1 EST2 FIG1 FIG2 G1 G2 GAL4 GAMMA-CHAIN GB1 GI50
GP120 GP160 H1N1 H2O2 HC11 HEK293 HEPG2 HL-60 HL60 HS-40 HS1 HS2 HS3 HS4 HS40 HT-29 HT29 HUH7 IC50
INT1 K12 K562 L1 LAD-1 LAD1 LD50 LINE-1 LINE1 LMP-1 LMP1 LPL1 M1 M2 MCF-7 MCF7 ML-1 MODEL1 MT-2
MT-4 NF1A NIH3T3 NK1 NK2 NK3 NO2 NS3 NS5A ORF1 ORF2 P24 P450 PC-3 PC1 PC12 PC2 PC3 PC4 PGE2 PHASE1
PHASE2 PI3 PTH1 S1 S2 SHOX1 SV40 SW480 SW620 T-ALL T47D TAB1 TAB2 TH-1 TH-2 TH1 TH17 TH2 THP-1
THP1 TP1 TP2 U937 VITD3
"""
ABBREVIATIONS = frozenset(f"{ABBREVIATION_LIST} {LINES_AND_UNITS_LIST}".split())

# Series of phenotypes in OMIM: aliases of a gene in Entrez, but diseases where papers name them.
DISEASE_SERIES = re.compile(
    r"(?:AAA|AD|ADNP|AIS|ALS|AMD|ARMD|ASPG|AUTS|BMFS|BMND|CDG|CFEOM|CGL|CILD|CMD|CMH|CMM|CMS|CMT|COD|CORD"
    r"|COXPD|CPVT|CRC|CTRCT|CVID|DA|DEE|DFN[ABX]?|DYT|EA|EIEE|EIG|EJM|EPM|FEB|FGQTL|FHM|FTD|GEFSP|GLC|HH|HLD"
    r"|HPC|HPE|HSAN|HYD|HYPOT|IBD|IDDM|IMD|JBTS|LCA|LFS|LGMD\w?|LHON|LIS|LQT|MC\d|MCOPS?|MCPH|MDDG\w|MEN|MFM|MKS"
    r"|MODY|MRD|MRT|MRX|MYP|NBIA|NCL|NEDM|NIDDM|NPHS|OCA|ODG|OFC|OI|OPA|OTSC|PARK|PCH|PFBMFT|PFIC|PKD|POAG"
    r"|PSORS|RP|SCA|SCAR|SCKL|SCN|SGBS|SLEB|SPG|SPGF|SRN|STL|SYM|TAAD|USH|VWS|WFS|WS)\d+[A-Z]?\d?"
)

# DNA markers, roman numerals, amino acids and nucleotides that stand among the aliases.
NEVER_A_GENE = re.compile(
    r"D[\dXY]{1,2}S\d+\w*|DXYS\d+\w*|[IVX]+[ab]?|(?i:[A-Z]\d{1,3}|[A-Z]-\d{1,2})(?<!p\d\d)(?<!p\d\d\d)"
    r"|(?:Ala|Arg|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val)\d*"
    r"|[ACGTU]{3,}|[A-Za-z]-[A-Za-z]|(?:alpha|beta|gamma|delta|kappa|lambda).?\d*|\d.{0,3}|.*[^\w./-].*|.*_.*"
)

# Spellings that papers use for one gene and that Entrez does not list, or lists for others as well.
COMMON_SPELLINGS = {
    "CDK1": ("CDC2", "cdc2"),
    "CDKN1A": ("CIP1", "p21Cip1", "p21WAF1"),
    "CDKN1B": ("KIP1", "p27Kip1"),
    "CSF1": ("M-CSF",),
    "CSF2": ("GM-CSF",),
    "CSF3": ("G-CSF",),
    "FCGR3A": ("CD16",),
    "FOS": ("c-fos", "c-Fos"),
    "HIF1A": ("HIF-1",),
    "HSPA1A": ("HSP70", "Hsp70"),
    "IFNG": ("IFN-gamma",),
    "IL1A": ("IL-1alpha",),
    "IL1B": ("IL-1beta",),
    "IL2RA": ("CD25",),
    "JUN": ("c-jun", "c-Jun"),
    "KIT": ("c-kit", "c-Kit"),
    "MET": ("c-met", "c-Met"),
    "MS4A1": ("CD20",),
    "MYC": ("c-myc", "c-Myc"),
    "MZF1": ("MZF-1",),
    "NBN": ("NBS1",),
    "NFKB1": ("NF-kappa B", "NF-kappaB"),
    "POU2F1": ("Oct-1", "Oct1"),
    "POU2F2": ("Oct-2", "Oct2"),
    "PPARA": ("PPAR-alpha", "PPARalpha"),
    "PPARG": ("PPAR-gamma", "PPARgamma"),
    "SRC": ("c-src", "c-Src"),
    "TGFB1": ("TGF-beta1", "TGF-beta 1"),
    "TGFB2": ("TGF-beta2", "TGF-beta 2"),
    "TP53": ("p53",),
}


@dataclass(frozen=True)
class Gene:
    """One row of the lexicon; `ambiguous` is "", "word" or "abbreviation"."""

    symbol: str
    entrez_id: str
    gene_type: str
    ensembl_id: str
    aliases: tuple[str, ...]
    ambiguous: str

    def row(self) -> str:
        """The tab-separated line of this gene, without its end of line."""
        return "\t".join(
            (
                self.symbol,
                self.entrez_id,
                self.gene_type,
                self.ensembl_id,
                "|".join(self.aliases),
                self.ambiguous,
            )
        )


def read_words(path: Path) -> frozenset[str]:
    """The lower-cased words of a list with one word a line, possessives left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(line.lower() for line in lines if "'" not in line)


def ambiguity(symbol: str, words: frozenset[str]) -> str:
    """Why a symbol cannot be told from ordinary writing: "word", "abbreviation" or ""."""
    if len(symbol) > 2 and symbol.lower() in words:
        return "word"
    if len(symbol) < 3 or symbol.upper() in ABBREVIATIONS:
        return "abbreviation"
    return ""


def is_good_alias(alias: str, words: frozenset[str]) -> bool:
    """Whether an alias, where it stands in a text, is likely to name the gene."""
    return not (
        len(alias) < 3
        or len(alias) > 20
        or ambiguity(alias, words)
        or NEVER_A_GENE.fullmatch(alias)
        or DISEASE_SERIES.fullmatch(alias)
        # Title-case or lower-case letters alone are words, names and families: Delta, Kell.
        or (alias.isalpha() and sum(letter.isupper() for letter in alias) < 2)
    )


def read_genes(database: Path, words: frozenset[str]) -> Iterator[Gene]:
    """Read the genes worth recognising, sorted by symbol.

    An alias that several genes share, in whatever case, is given to none, unless only one of them
    codes for a protein; an alias that is another gene's symbol is that gene's.
    """
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        gene_rows = connection.execute(
            "SELECT g._id, i.symbol, g.gene_id, t.gene_type FROM genes g"
            " JOIN gene_info i USING (_id) JOIN genetype t USING (_id)"
        ).fetchall()
        alias_rows = connection.execute("SELECT _id, alias_symbol FROM alias").fetchall()
        ensembl = dict(
            connection.execute("SELECT _id, MIN(ensembl_id) FROM ensembl GROUP BY _id").fetchall()
        )
    kept = {
        row_id: (symbol, gene_id, gene_type)
        for row_id, symbol, gene_id, gene_type in gene_rows
        if SYMBOL.fullmatch(symbol) and gene_type in GENE_TYPES
    }
    symbols = {symbol for symbol, _, _ in kept.values()}
    common_spellings = {spelling for its in COMMON_SPELLINGS.values() for spelling in its}
    owners: dict[str, set[int]] = defaultdict(set)
    for row_id, alias in alias_rows:
        if row_id in kept:
            owners[alias.lower()].add(row_id)
    aliases: dict[int, list[str]] = defaultdict(list)
    for row_id, alias in alias_rows:
        if row_id not in kept or alias in symbols or not is_good_alias(alias, words):
            continue
        if alias in common_spellings:
            continue
        row_ids = owners[alias.lower()]
        coding = {other for other in row_ids if kept[other][2] == "protein-coding"}
        if row_ids == {row_id} or coding == {row_id}:
            aliases[row_id].append(alias)
    for row_id, (symbol, gene_id, gene_type) in sorted(kept.items(), key=lambda item: item[1]):
        its_aliases = {*aliases[row_id], *COMMON_SPELLINGS.get(symbol, ())}
        yield Gene(
            symbol=symbol,
            entrez_id=gene_id,
            gene_type=gene_type,
            ensembl_id=ensembl.get(row_id, ""),
            aliases=tuple(sorted(its_aliases)),
            ambiguous=ambiguity(symbol, words),
        )


def write_lexicon(genes: list[Gene], source_date: str, path: Path) -> None:
    """Write the lexicon as gzipped UTF-8; the same genes give the same bytes."""
    header = (
        "# Human gene symbols and aliases. Species: Homo sapiens.\n"
        f"# Source: NCBI Entrez Gene, {source_date}, as packaged in Bioconductor org.Hs.eg.db.\n"
        "# Built by data/build_gene_symbols.py. ambiguous: the symbol is also an English word\n"
        "# or a common abbreviation, so a mention of it needs evidence in its context.\n"
    )
    lines = ["\t".join(COLUMNS), *(gene.row() for gene in genes)]
    content = header + "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(content.encode("utf-8"), compresslevel=9, mtime=0))


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.argument("database", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--word-list",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="English words, one a line (Debian's wamerican-huge).",
)
@click.option(
    "--source-date",
    default="September 2022",
    show_default=True,
    help="Date of the Entrez Gene release, for the header (EGSOURCEDATE in the database).",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(__file__).with_name("gene_symbols.tsv.gz"),
    help="File to write.  [default: gene_symbols.tsv.gz beside this script]",
)
def main(database: Path, word_list: Path, source_date: str, output: Path) -> None:
    """Read, filter, write, and say how many."""
    genes = list(read_genes(database, read_words(word_list)))
    write_lexicon(genes, source_date, output)
    click.echo(
        f"{output}: {len(genes):,} genes, {sum(len(gene.aliases) for gene in genes):,} aliases, "
        f"{sum(bool(gene.ambiguous) for gene in genes):,} ambiguous symbols, "
        f"{output.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
