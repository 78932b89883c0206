//! Parquet: flat columns of numbers, times and text, row group by row group.

use parquet::basic::{Compression, ConvertedType, Encoding, LogicalType, TimeUnit, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::{Cells, Options, Raw, assemble, date_column, footer, is_missing, unique};
use crate::Error;
use crate::date;
use crate::table::{Reading, Table};
use crate::time::DAY;

/// Values that are kept at most: repeated values take next to no space in such a file.
const MAX_VALUES: u64 = 1 << 27;
/// Bytes of dates written as text that are kept at most.
const MAX_TEXT: usize = 1 << 30;
/// Values read at once.
const BATCH: usize = 8192;
/// Texts that say whether a column holds dates.
const SAMPLE: usize = 50;

/// What the values of a column mean.
#[derive(Clone, Copy)]
enum Meaning {
    /// Numbers, to be divided by this.
    Number(f64),
    /// Unsigned integers.
    Unsigned,
    /// `numerator / denominator` microseconds each, since 1970.
    Time { numerator: i64, denominator: i64, utc: bool },
    /// Text.
    Text,
    /// None of these.
    Other(&'static str),
}

/// Reads the bytes of a Parquet file.
pub(super) fn read(file: &str, bytes: Vec<u8>, options: &Options) -> Result<Table, Error> {
    if let Some(problem) = footer::problem(&bytes) {
        return Err(Error::Format { file: file.into(), problem: format!("{problem}: write the file again") });
    }
    // The library takes for granted some of what a file says, and panics where that is wrong.
    let read = std::panic::catch_unwind(|| columns(file, bytes));
    let damaged = |_| Err(Error::Format { file: file.into(), problem: "the file is damaged: write it again".into() });
    let (raws, renamed) = read.unwrap_or_else(damaged)?;
    let names: Vec<String> = raws.iter().map(|raw| raw.name.clone()).collect();
    let date_at = date_column(file, &names, options, |at| match &raws[at].cells {
        Cells::Times { .. } => true,
        Cells::Texts(texts) => date::is_date_column(&names[at], texts.iter().map(String::as_str)),
        Cells::Numbers(values) => {
            let known = values.iter().filter(|value| !value.is_nan()).take(SAMPLE);
            let texts: Vec<String> = known.map(f64::to_string).collect();
            date::is_date_column(&names[at], texts.iter().map(String::as_str))
        }
        Cells::Other { .. } => false,
    })?;
    assemble(file, raws, date_at, options, Reading { format: "Parquet", header: true, renamed, ..Reading::default() })
}

/// All columns, and the names that were made for some.
fn columns(file: &str, bytes: Vec<u8>) -> Result<(Vec<Raw>, Vec<String>), Error> {
    let format = |problem: ParquetError| Error::Format { file: file.into(), problem: problem.to_string() };
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).map_err(format)?;
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema_descr_ptr();
    let rows = metadata.row_groups().iter().try_fold(0u64, |rows, group| {
        rows.checked_add(u64::try_from(group.num_rows()).ok()?).filter(|&rows| rows <= MAX_VALUES)
    });
    let values = rows.and_then(|rows| rows.checked_mul(schema.num_columns() as u64)).unwrap_or(u64::MAX);
    if values > MAX_VALUES {
        return Err(Error::TooLarge { file: file.into(), what: "values", found: values, limit: MAX_VALUES });
    }
    if values == 0 {
        return Err(Error::Empty { file: file.into(), found: "the file has no row" });
    }
    let rows = rows.unwrap_or(0) as usize;
    let mut names: Vec<String> = schema.columns().iter().map(|column| column.path().parts().join(".")).collect();
    let renamed = unique(&mut names);
    let mut raws = Vec::new();
    for (at, (name, column)) in names.into_iter().zip(schema.columns()).enumerate() {
        let mut into = Target::new(meaning(column), &name);
        for group in 0..metadata.num_row_groups() {
            if into.is_closed() {
                break;
            }
            let chunk = metadata.row_group(group).column(at);
            let codecs = [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())];
            if !codecs.iter().any(|codec| std::mem::discriminant(codec) == std::mem::discriminant(&chunk.compression()))
            {
                let codec = chunk.compression().to_string();
                let found = codec.split('(').next().unwrap_or(&codec);
                let problem = format!(
                    "column `{name}` is compressed with {found}, expected snappy, zstd or nothing: write the file so"
                );
                return Err(Error::Format { file: file.into(), problem });
            }
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            if start < 0 || chunk.compressed_size() < 0 {
                let problem = format!("column `{name}` begins before the file: the file is damaged");
                return Err(Error::Format { file: file.into(), problem });
            }
            let pages =
                reader.get_row_group(group).and_then(|group| group.get_column_page_reader(at)).map_err(format)?;
            let pages = Box::new(Plausible { pages, rows, has_dictionary: false });
            into.read(get_column_reader(column.clone(), pages), column, rows).map_err(format)?;
        }
        let cells = into.finish();
        let found = match &cells {
            Cells::Numbers(values) => values.len(),
            Cells::Texts(texts) => texts.len(),
            Cells::Times { micros, .. } => micros.len(),
            Cells::Other { .. } => rows,
        };
        if found != rows {
            let problem = format!("column `{name}` has {found} values, expected {rows}: the file is damaged");
            return Err(Error::Format { file: file.into(), problem });
        }
        raws.push(Raw { name, cells });
    }
    Ok((raws, renamed))
}

/// Pages whose counts their bytes can hold: the library makes room for what a page says.
struct Plausible {
    pages: Box<dyn PageReader>,
    rows: usize,
    has_dictionary: bool,
}

impl Iterator for Plausible {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Plausible {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        let problem = match &page {
            // A value of a dictionary takes a byte at least.
            Some(Page::DictionaryPage { buf, num_values, .. }) => {
                self.has_dictionary = true;
                (*num_values as usize > buf.len()).then_some("a dictionary has more values than bytes")
            }
            Some(Page::DataPage { num_values, encoding, .. } | Page::DataPageV2 { num_values, encoding, .. }) => {
                let by_dictionary = matches!(encoding, Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY);
                match (by_dictionary && !self.has_dictionary, *num_values as usize > self.rows) {
                    (true, _) => Some("a dictionary is missing"),
                    (_, true) => Some("a page has more values than the file has rows"),
                    (false, false) => None,
                }
            }
            None => None,
        };
        match problem {
            Some(problem) => Err(ParquetError::General(format!("{problem}: the file is damaged"))),
            None => Ok(page),
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.pages.at_record_boundary()
    }
}

fn meaning(column: &ColumnDescriptor) -> Meaning {
    if column.max_rep_level() > 0 {
        return Meaning::Other("a list");
    }
    let decimal = |scale: i32| Meaning::Number(10f64.powi(scale));
    let time = |numerator, denominator, utc| Meaning::Time { numerator, denominator, utc };
    match (column.logical_type_ref(), column.converted_type(), column.physical_type()) {
        (Some(LogicalType::Timestamp(stamp)), ..) => match stamp.unit {
            TimeUnit::MILLIS => time(1000, 1, stamp.is_adjusted_to_u_t_c),
            TimeUnit::MICROS => time(1, 1, stamp.is_adjusted_to_u_t_c),
            TimeUnit::NANOS => time(1, 1000, stamp.is_adjusted_to_u_t_c),
        },
        (Some(LogicalType::Date), ..) | (None, ConvertedType::DATE, _) => time(DAY, 1, false),
        (None, ConvertedType::TIMESTAMP_MILLIS, _) => time(1000, 1, true),
        (None, ConvertedType::TIMESTAMP_MICROS, _) => time(1, 1, true),
        (_, _, Type::INT96) => time(1, 1, false),
        (Some(LogicalType::Decimal(decimals)), ..) => decimal(decimals.scale),
        (None, ConvertedType::DECIMAL, _) => decimal(column.type_scale()),
        (Some(LogicalType::Time(_)), ..) => Meaning::Other("a time of day"),
        (Some(LogicalType::Integer(kind)), ..) if !kind.is_signed => Meaning::Unsigned,
        (None, ConvertedType::UINT_32 | ConvertedType::UINT_64, _) => Meaning::Unsigned,
        (Some(LogicalType::String), ..) | (None, ConvertedType::UTF8, _) => Meaning::Text,
        (_, _, Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY) => Meaning::Other("binary data"),
        (_, _, Type::BOOLEAN | Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE) => Meaning::Number(1.0),
    }
}

/// Where the values of a column go.
struct Target<'a> {
    meaning: Meaning,
    name: &'a str,
    numbers: Vec<f64>,
    times: Vec<Option<i64>>,
    texts: Vec<String>,
    /// Texts that are not missing.
    known: usize,
    bytes: usize,
    other: Option<(usize, String)>,
}

impl<'a> Target<'a> {
    fn new(meaning: Meaning, name: &'a str) -> Target<'a> {
        let other = match meaning {
            Meaning::Other(what) => Some((1, what.to_string())),
            _ => None,
        };
        Target { meaning, name, numbers: Vec::new(), times: Vec::new(), texts: Vec::new(), known: 0, bytes: 0, other }
    }

    fn is_closed(&self) -> bool {
        self.other.is_some()
    }

    fn finish(mut self) -> Cells {
        if matches!(self.meaning, Meaning::Text) && (1..SAMPLE).contains(&self.known) {
            self.judge_texts();
        }
        match (self.other, self.meaning) {
            (Some((row, found)), _) => Cells::Other { row, found },
            (None, Meaning::Text) if self.known == 0 => Cells::Numbers(vec![f64::NAN; self.texts.len()]),
            (None, Meaning::Text) => Cells::Texts(self.texts),
            (None, Meaning::Time { utc, .. }) => Cells::Times { micros: self.times, utc },
            (None, _) => Cells::Numbers(self.numbers),
        }
    }

    fn read(&mut self, chunk: ColumnReader, column: &ColumnDescriptor, rows: usize) -> Result<(), ParquetError> {
        use ColumnReader as C;
        let levels = column.max_def_level();
        match chunk {
            C::BoolColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| to.number(f64::from(u8::from(x)))),
            C::Int32ColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| match to.meaning {
                Meaning::Unsigned => to.number(f64::from(x as u32)),
                _ => to.integer(i64::from(x)),
            }),
            C::Int64ColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| match to.meaning {
                Meaning::Unsigned => to.number(x as u64 as f64),
                _ => to.integer(x),
            }),
            C::Int96ColumnReader(chunk) => self.each(chunk, levels, rows, |to, x| to.integer(x.to_micros())),
            C::FloatColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| to.number(f64::from(x))),
            C::DoubleColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| to.number(x)),
            C::ByteArrayColumnReader(chunk) => self.each(chunk, levels, rows, Target::bytes),
            C::FixedLenByteArrayColumnReader(chunk) => self.each(chunk, levels, rows, |to, x| to.bytes(x)),
        }
    }

    /// Every value of a chunk, missing ones included.
    fn each<T: DataType>(
        &mut self,
        mut chunk: ColumnReaderImpl<T>,
        max_level: i16,
        rows: usize,
        mut push: impl FnMut(&mut Self, &T::T),
    ) -> Result<(), ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        loop {
            levels.clear();
            values.clear();
            let wanted = (max_level > 0).then_some(&mut levels);
            let (records, _, _) = chunk.read_records(BATCH, wanted, None, &mut values)?;
            if records == 0 || self.is_closed() {
                return Ok(());
            }
            if self.numbers.len() + self.times.len() + self.texts.len() + records > rows {
                return Err(ParquetError::General(format!("column `{}` has more than {rows} values", self.name)));
            }
            let mut values = values.iter();
            for at in 0..records {
                let there = max_level == 0 || levels.get(at) == Some(&max_level);
                match if there { values.next() } else { None } {
                    Some(value) => push(self, value),
                    None => self.missing(),
                }
            }
        }
    }

    fn missing(&mut self) {
        match self.meaning {
            Meaning::Time { .. } => self.times.push(None),
            Meaning::Text => self.text(String::new()),
            _ => self.numbers.push(f64::NAN),
        }
    }

    fn number(&mut self, value: f64) {
        match self.meaning {
            Meaning::Number(scale) => self.numbers.push(value / scale),
            _ => self.numbers.push(value),
        }
    }

    fn integer(&mut self, value: i64) {
        let Meaning::Time { numerator, denominator, .. } = self.meaning else { return self.number(value as f64) };
        let micros = (i128::from(value) * i128::from(numerator)).div_euclid(i128::from(denominator));
        let micros = i64::try_from(micros).ok();
        self.times.push(micros.filter(|&micros| crate::time::civil(micros).is_some()));
    }

    fn bytes(&mut self, value: &ByteArray) {
        match self.meaning {
            Meaning::Text => self.text(String::from_utf8_lossy(value.data()).into_owned()),
            _ => match big_endian(value.data()) {
                Some(value) => self.number(value),
                None => self.other = Some((self.numbers.len() + 1, "a number of more than 16 bytes".into())),
            },
        }
    }

    fn text(&mut self, text: String) {
        if self.is_closed() {
            return;
        }
        let known = !is_missing(&text);
        self.known += usize::from(known);
        self.bytes += text.len();
        self.texts.push(text);
        if known && self.known == SAMPLE {
            self.judge_texts();
        }
        if self.bytes > MAX_TEXT {
            self.other = Some((self.texts.len(), "more than a gigabyte of text".into()));
        }
    }

    /// Texts that are no dates are dropped but for an example.
    fn judge_texts(&mut self) {
        if !date::is_date_column(self.name, self.texts.iter().map(String::as_str)) {
            let example = self.texts.iter().enumerate().find(|(_, text)| !is_missing(text));
            self.other = Some(example.map_or((1, String::new()), |(row, text)| (row + 1, format!("text {text}"))));
            self.texts = Vec::new();
        }
    }
}

/// A decimal's digits: two's complement, the highest byte first.
fn big_endian(bytes: &[u8]) -> Option<f64> {
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    let fill = if bytes[0] >= 0x80 { 0xff } else { 0 };
    let mut whole = [fill; 16];
    whole[16 - bytes.len()..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(whole) as f64)
}
